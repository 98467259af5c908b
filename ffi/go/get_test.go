package quicksilver_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"quicksilver"
	"quicksilver/internal/testdb"
)

func TestGet(t *testing.T) {
	db, s := open(t), snapshot(t)
	for name, get := range map[string]func(key []byte) ([]byte, error){
		"Get":          db.Get,
		"AppendGet":    func(key []byte) ([]byte, error) { return db.AppendGet([]byte{}, key) },
		"Snapshot.Get": s.Get,
	} {
		t.Run(name, func(t *testing.T) {
			for _, pair := range testdb.Pairs() {
				value, err := get([]byte(pair.Key))
				if err != nil || value == nil || string(value) != pair.Value {
					t.Fatalf("%q: %.20q, %v", pair.Key, value, err)
				}
				// It is ours, and nobody else's.
				for n := range value {
					value[n] ^= 0xff
				}
			}
		})
	}
	for _, key := range []string{"nobody", "hell", "hello\x00", strings.Repeat("k", 511)} {
		value, err := db.Get([]byte(key))
		if value != nil || err != quicksilver.ErrNotFound || !errors.Is(err, quicksilver.ErrNotFound) {
			t.Errorf("%q: %q, %v", key, value, err)
		}
	}
}

func TestAppendGet(t *testing.T) {
	db := open(t)
	for _, room := range []int{0, 1, 4, 5, 6, 100} {
		dst := append(make([]byte, 0, 2+room), "> "...)
		got, err := db.AppendGet(dst, []byte("hello"))
		if err != nil || string(got) != "> world" {
			t.Fatalf("room for %d: %q, %v", room, got, err)
		}
		if fits := room >= len("world"); fits != (&got[0] == &dst[0]) {
			t.Fatalf("room for %d: it was to use it: %v", room, fits)
		}
	}
	long, err := db.AppendGet([]byte("> "), []byte("long"))
	if err != nil || len(long) != 2+1<<20 || !bytes.HasPrefix(long, []byte("> \x00\x01\x02")) {
		t.Fatalf("%d bytes, %.5q, %v", len(long), long, err)
	}
	if got, err := db.AppendGet(nil, []byte("hello")); err != nil || string(got) != "world" {
		t.Fatalf("%q, %v", got, err)
	}
	// What cannot be appended leaves the caller's slice as it is, for the next key.
	for _, key := range []string{"nobody", ""} {
		got, err := db.AppendGet([]byte("> "), []byte(key))
		if err == nil || string(got) != "> " {
			t.Fatalf("%q: %q, %v", key, got, err)
		}
	}
}

func TestWhatReadingAllocates(t *testing.T) {
	db, s := open(t), snapshot(t)
	buffer := make([]byte, 0, 100)
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		want float64
		read func()
	}{
		"Get":           {1, func() { _, err := db.Get([]byte("zone/example.org")); check(err) }},
		"Get, not here": {0, func() { _, _ = db.Get([]byte("nobody")) }},
		"AppendGet":     {0, func() { _, err := db.AppendGet(buffer, []byte("zone/example.org")); check(err) }},
		"Index":         {0, func() { _, err := db.Index(); check(err) }},
		"View": {0, func() {
			check(s.View([]byte("zone/example.org"), func([]byte) error { return nil }))
		}},
	} {
		if got := testing.AllocsPerRun(1000, c.read); got != c.want {
			t.Errorf("%s allocates %v times, not %v", name, got, c.want)
		}
	}
}

func TestMultiGet(t *testing.T) {
	db := open(t)
	var keys [][]byte
	pairs := testdb.Pairs()
	for _, pair := range pairs {
		keys = append(keys, []byte(pair.Key), []byte("nobody"))
	}
	values, err := db.MultiGet(keys)
	if err != nil || len(values) != len(keys) {
		t.Fatal(len(values), err)
	}
	for n, pair := range pairs {
		if value := values[2*n]; value == nil || string(value) != pair.Value {
			t.Errorf("%q: %.20q", pair.Key, value)
		}
		if values[2*n+1] != nil {
			t.Errorf("a value where there is no key: %q", values[2*n+1])
		}
	}
	for _, none := range [][][]byte{nil, {}} {
		if values, err := db.MultiGet(none); len(values) != 0 || err != nil {
			t.Error(values, err)
		}
	}
	for _, bad := range []string{"", strings.Repeat("k", 512)} {
		values, err := db.MultiGet([][]byte{[]byte("hello"), []byte(bad)})
		if values != nil || !errors.Is(err, quicksilver.ErrInvalidArgument) ||
			!strings.Contains(err.Error(), "keys[1]") {
			t.Error(values, err)
		}
	}
}

func TestKeysThatAreNone(t *testing.T) {
	db, s := open(t), snapshot(t)
	for _, key := range [][]byte{nil, {}, make([]byte, 512), make([]byte, 1<<20)} {
		_, get := db.Get(key)
		_, appended := db.AppendGet(nil, key)
		view := s.View(key, func([]byte) error { return errors.New("called") })
		for _, err := range []error{get, appended, view} {
			if !errors.Is(err, quicksilver.ErrInvalidArgument) || !strings.Contains(err.Error(), "1 to 511 bytes") {
				t.Errorf("a key of %d bytes: %v", len(key), err)
			}
		}
	}
}

func TestDamageIsFound(t *testing.T) {
	const value = "a value of which no other bytes in this file are like"
	damaged := filepath.Join(t.TempDir(), "db")
	pairs := []testdb.Pair{{Key: "damaged", Value: value}, {Key: "whole", Value: "value"}}
	if err := testdb.Build(damaged, pairs); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(damaged, "gen-*", "data.mdb"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(data, []byte(value)) {
		t.Fatal("the value is not in the file")
	}
	data = bytes.ReplaceAll(data, []byte(value), []byte("A"+value[1:]))
	if err := os.WriteFile(files[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := quicksilver.Open(damaged)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	got, err := db.Get([]byte("damaged"))
	if got != nil || !errors.Is(err, quicksilver.ErrCorrupt) || !strings.Contains(err.Error(), "damaged") {
		t.Fatalf("%q, %v", got, err)
	}
	if got, err := db.Get([]byte("whole")); err != nil || string(got) != "value" {
		t.Fatalf("%q, %v", got, err)
	}
}
