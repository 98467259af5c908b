package quicksilver_test

import (
	"fmt"
	"math/rand"
	"path/filepath"
	"testing"

	"quicksilver"
	"quicksilver/internal/testdb"
)

const benchKeys = 100_000

// openMany opens a database of many keys, all of them in memory, and gives the keys in random order.
func openMany(b *testing.B) (*quicksilver.DB, [][]byte) {
	b.Helper()
	pairs, keys := make([]testdb.Pair, benchKeys), make([][]byte, benchKeys)
	for n := range pairs {
		pairs[n] = testdb.Pair{Key: fmt.Sprintf("zone/%06d.example", n), Value: fmt.Sprintf("%0100d", n)}
		keys[n] = []byte(pairs[n].Key)
	}
	dir := filepath.Join(b.TempDir(), "db")
	if err := testdb.Build(dir, pairs); err != nil {
		b.Fatal(err)
	}
	db, err := quicksilver.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	rand.New(rand.NewSource(1)).Shuffle(len(keys), func(a, b int) { keys[a], keys[b] = keys[b], keys[a] })
	return db, keys
}

// BenchmarkRead reads keys in random order in every way, and one key again and again.
func BenchmarkRead(b *testing.B) {
	db, keys := openMany(b)
	s, err := db.Snapshot()
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	buffer := make([]byte, 0, 1024)
	look := func([]byte) error { return nil }
	for _, way := range []struct {
		name string
		read func(key []byte) error
	}{
		{"Get", func(key []byte) error { _, err := db.Get(key); return err }},
		{"AppendGet", func(key []byte) error { _, err := db.AppendGet(buffer, key); return err }},
		{"View", func(key []byte) error { return s.View(key, look) }},
	} {
		for _, c := range []struct {
			name string
			keys [][]byte
		}{{"one", keys[:1]}, {"random", keys}} {
			b.Run(way.name+"/"+c.name, func(b *testing.B) {
				b.ReportAllocs()
				for n := 0; n < b.N; n++ {
					if err := way.read(c.keys[n%len(c.keys)]); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkCall is the cheapest call of the library: what remains is the way into C and back.
func BenchmarkCall(b *testing.B) {
	db := open(b)
	for n := 0; n < b.N; n++ {
		if _, err := db.Index(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMultiGet10(b *testing.B) {
	db, keys := openMany(b)
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n++ {
		from := n % (len(keys) - 10)
		if _, err := db.MultiGet(keys[from : from+10]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkScanPair is one pair of a long scan.
func BenchmarkScanPair(b *testing.B) {
	db, _ := openMany(b)
	s, err := db.Snapshot()
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	b.ReportAllocs()
	b.ResetTimer()
	scan := s.Scan(scanOptions{})
	for n := 0; n < b.N; n++ {
		if !scan.Next() {
			scan = s.Scan(scanOptions{})
		}
	}
	if err := scan.Err(); err != nil {
		b.Fatal(err)
	}
	scan.Close()
}

func BenchmarkSnapshot(b *testing.B) {
	db := open(b)
	for n := 0; n < b.N; n++ {
		s, err := db.Snapshot()
		if err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}
