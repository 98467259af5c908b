package quicksilver_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"quicksilver"
)

func TestWhatWasClosedSaysSo(t *testing.T) {
	db, s := open(t), snapshot(t)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, use := range map[string]func() error{
		"Get":           func() error { _, err := db.Get([]byte("hello")); return err },
		"AppendGet":     func() error { _, err := db.AppendGet(nil, []byte("hello")); return err },
		"MultiGet":      func() error { _, err := db.MultiGet([][]byte{[]byte("hello")}); return err },
		"Index":         func() error { _, err := db.Index(); return err },
		"Status":        func() error { _, err := db.Status(); return err },
		"WaitFor":       func() error { return db.WaitFor(context.Background(), 0) },
		"Snapshot":      func() error { _, err := db.Snapshot(); return err },
		"Watch":         func() error { return (<-db.Watch(context.Background(), 0, nil)).Err },
		"Snapshot.Get":  func() error { _, err := s.Get([]byte("hello")); return err },
		"Snapshot.View": func() error { return s.View([]byte("hello"), nil) },
		"Snapshot.Scan": func() error { return s.Scan(scanOptions{}).Err() },
	} {
		if err := use(); !errors.Is(err, quicksilver.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Goroutines read in every way while one closes what they read from: each call does what it should,
// or says that it came too late.
func TestClosingUnderReaders(t *testing.T) {
	const rounds, readers, readsBeforeClose = 20, 8, 200
	for round := 0; round < rounds; round++ {
		db, s := open(t), snapshot(t)
		ways := []func() error{
			func() error { value, err := db.Get([]byte("hello")); return world(value, err) },
			func() error {
				values, err := db.MultiGet([][]byte{[]byte("hello")})
				if err != nil {
					return err
				}
				return world(values[0], nil)
			},
			func() error {
				s, err := db.Snapshot()
				if err != nil {
					return err
				}
				defer s.Close()
				value, err := s.Get([]byte("hello"))
				return world(value, err)
			},
			func() error {
				return s.View([]byte("hello"), func(value []byte) error { return world(value, nil) })
			},
			func() error {
				scan := s.Scan(scanOptions{Prefix: []byte("h")})
				defer scan.Close()
				if !scan.Next() {
					return scan.Err()
				}
				return world(scan.Value(), nil)
			},
			func() error { _, err := db.Status(); return err },
		}
		var reads atomic.Int64
		enough := make(chan struct{})
		var all sync.WaitGroup
		for n := 0; n < readers; n++ {
			way := ways[n%len(ways)]
			all.Add(1)
			go func() {
				defer all.Done()
				for {
					err := way()
					if errors.Is(err, quicksilver.ErrClosed) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					if reads.Add(1) == readsBeforeClose {
						close(enough)
					}
				}
			}()
		}
		<-enough
		var closers sync.WaitGroup
		for _, close := range []func() error{db.Close, s.Close, db.Close, s.Close} {
			close := close
			closers.Add(1)
			go func() {
				defer closers.Done()
				if err := close(); err != nil {
					t.Error(err)
				}
			}()
		}
		closers.Wait()
		all.Wait()
	}
}

func world(value []byte, err error) error {
	if err == nil && string(value) != "world" {
		return errors.New("not world: " + string(value))
	}
	return err
}
