// Package quicksilver reads a Quicksilver database straight out of shared memory.
//
// A replicator (quicksilverd) keeps a full copy of the data on every machine. This package maps
// that copy into the process: a read is a lookup in memory, with no socket, no server and no cache
// in between, and the replicator's writes never make it wait.
//
// Open a database once, at the start, and use it from every goroutine:
//
//	db, err := quicksilver.Open("/var/lib/quicksilver/dns")
//	if err != nil {
//		log.Fatal(err)
//	}
//	defer db.Close()
//
//	address, err := db.Get([]byte("zone/example.org"))
//	switch {
//	case errors.Is(err, quicksilver.ErrNotFound):
//		// there is no such key
//	case err != nil:
//		return err
//	}
//
// For several reads of one moment take a Snapshot. To keep something up to date, use Watch.
//
// Keys have 1 to 511 bytes; keys and values are bytes and may contain anything. Arguments are not
// kept, and what is returned is the caller's, unless a comment says otherwise.
//
// The package needs libquicksilver, which pkg-config has to find; see the README beside it.
package quicksilver
