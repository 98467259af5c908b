package quicksilver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"

	"quicksilver"
)

func Example() {
	db, err := quicksilver.Open(dir)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	address, err := db.Get([]byte("zone/example.org"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", address)
	// Output: 192.0.2.1
}

func ExampleOpen() {
	_, err := quicksilver.Open("/var/lib/quicksilver/nobody")
	fmt.Println(errors.Is(err, quicksilver.ErrNoDatabase))

	db, err := quicksilver.Open(dir, quicksilver.WithDBID("0ba4a1b2-1c1c-4f6e-9e0a-0c6a3a3f8a11"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(db.Close())
	// Output:
	// true
	// <nil>
}

func ExampleDB_Get_notFound() {
	db, err := quicksilver.Open(dir)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	_, err = db.Get([]byte("zone/nobody.example"))
	if errors.Is(err, quicksilver.ErrNotFound) {
		fmt.Println("NXDOMAIN")
	}
	// Output: NXDOMAIN
}

func ExampleDB_AppendGet() {
	db, err := quicksilver.Open(dir)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	// One buffer for all keys: nothing is allocated.
	buffer := make([]byte, 0, 1024)
	for _, name := range []string{"example.net", "nobody.example", "example.org"} {
		key := append([]byte("zone/"), name...)
		buffer, err = db.AppendGet(buffer[:0], key)
		if errors.Is(err, quicksilver.ErrNotFound) {
			buffer = append(buffer, "NXDOMAIN"...)
		} else if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s %s\n", name, buffer)
	}
	// Output:
	// example.net 192.0.2.2
	// nobody.example NXDOMAIN
	// example.org 192.0.2.1
}

func ExampleDB_MultiGet() {
	db, err := quicksilver.Open(dir)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	values, err := db.MultiGet([][]byte{[]byte("hello"), []byte("nobody"), []byte("empty")})
	if err != nil {
		log.Fatal(err)
	}
	for _, value := range values {
		fmt.Printf("%q %v\n", value, value != nil)
	}
	// Output:
	// "world" true
	// "" false
	// "" true
}

func ExampleSnapshot_View() {
	db, err := quicksilver.Open(dir)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	snapshot, err := db.Snapshot()
	if err != nil {
		log.Fatal(err)
	}
	defer snapshot.Close()

	// A mebibyte is looked through where it lies.
	zeros := 0
	err = snapshot.View([]byte("long"), func(value []byte) error {
		zeros = bytes.Count(value, []byte{0})
		return nil
	})
	fmt.Println(zeros, err)
	// Output: 4178 <nil>
}

func ExampleSnapshot_Scan() {
	db, err := quicksilver.Open(dir)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	snapshot, err := db.Snapshot()
	if err != nil {
		log.Fatal(err)
	}
	defer snapshot.Close()

	scan := snapshot.Scan(quicksilver.ScanOptions{Prefix: []byte("zone/"), Backward: true})
	defer scan.Close()
	for scan.Next() {
		fmt.Printf("%s %s\n", scan.Key(), scan.Value())
	}
	if err := scan.Err(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// zone/example.org 192.0.2.1
	// zone/example.net 192.0.2.2
}

// A map that is kept up to date: what a snapshot shows, and what changes after it.
func ExampleDB_Watch() {
	db, err := quicksilver.Open(dir)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	zones := map[string]string{}
	load := func() uint64 {
		snapshot, err := db.Snapshot()
		if err != nil {
			log.Fatal(err)
		}
		defer snapshot.Close()
		for name := range zones {
			delete(zones, name)
		}
		scan := snapshot.Scan(quicksilver.ScanOptions{Prefix: []byte("zone/")})
		for scan.Next() {
			zones[string(scan.Key())] = string(scan.Value())
		}
		if err := scan.Err(); err != nil {
			log.Fatal(err)
		}
		return snapshot.Index()
	}
	index := load()
	fmt.Println(len(zones), "zones")

	ctx, cancel := context.WithCancel(context.Background())
	cancel() // a service goes on until it is told to stop; here it is told so at once
	for change := range db.Watch(ctx, index, []byte("zone/")) {
		switch change.Kind {
		case quicksilver.Set:
			zones[string(change.Key)] = string(change.Value)
		case quicksilver.Del:
			delete(zones, string(change.Key))
		case quicksilver.Rescan:
			load()
		case quicksilver.Failed:
			log.Fatal(change.Err)
		}
	}
	// Output: 2 zones
}
