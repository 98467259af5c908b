package quicksilver_test

import (
	"errors"
	"testing"

	"quicksilver"
)

func TestSnapshot(t *testing.T) {
	db := open(t)
	s, err := db.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	index, err := db.Index()
	if err != nil || s.Index() != index || index == 0 {
		t.Fatal(s.Index(), index, err)
	}
	// It does not depend on the DB.
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if value, err := s.Get([]byte("hello")); err != nil || string(value) != "world" {
		t.Fatalf("%q, %v", value, err)
	}
	if _, err := s.Get([]byte("nobody")); err != quicksilver.ErrNotFound {
		t.Fatal(err)
	}
	for n := 0; n < 2; n++ {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestViewShowsTheValueInPlace(t *testing.T) {
	s := snapshot(t)
	var first *byte
	for n := 0; n < 2; n++ {
		err := s.View([]byte("zone/example.org"), func(value []byte) error {
			if string(value) != "192.0.2.1" {
				t.Errorf("%q", value)
			}
			if first != nil && first != &value[0] {
				t.Error("it was copied")
			}
			first = &value[0]
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	wanted := errors.New("from fn")
	if err := s.View([]byte("empty"), func([]byte) error { return wanted }); err != wanted {
		t.Fatal(err)
	}
	err := s.View([]byte("nobody"), func([]byte) error { t.Error("called"); return nil })
	if err != quicksilver.ErrNotFound {
		t.Fatal(err)
	}
}

func TestASnapshotLastsAsLongAsItsViews(t *testing.T) {
	s := snapshot(t)
	inside, closed, done := make(chan bool), make(chan bool), make(chan error)
	go func() {
		done <- s.View([]byte("long"), func(value []byte) error {
			inside <- true
			<-closed
			for n, b := range value {
				if b != byte(n%251) {
					t.Errorf("byte %d is %d", n, b)
					break
				}
			}
			// Not for newcomers, though.
			return s.View([]byte("hello"), func([]byte) error { return nil })
		})
	}()
	<-inside
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	close(closed)
	if err := <-done; !errors.Is(err, quicksilver.ErrClosed) {
		t.Fatal(err)
	}
}

func TestAViewMayCloseItsSnapshotAndMayPanic(t *testing.T) {
	s := snapshot(t)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic did not arrive")
			}
		}()
		_ = s.View([]byte("hello"), func(value []byte) error {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if string(value) != "world" {
				t.Errorf("%q", value)
			}
			panic("on purpose")
		})
	}()
	if err := s.View([]byte("hello"), nil); !errors.Is(err, quicksilver.ErrClosed) {
		t.Fatal(err)
	}
}
