package quicksilver_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"quicksilver"
	"quicksilver/internal/testdb"
)

func TestOpenSaysWhyNot(t *testing.T) {
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	for name, c := range map[string]struct {
		dir     string
		options []quicksilver.Option
		want    quicksilver.Code
		says    string
	}{
		"nothing there":        {nowhere, nil, quicksilver.ErrNoDatabase, nowhere},
		"nothing within":       {nowhere, []quicksilver.Option{quicksilver.WithWait(time.Microsecond)}, quicksilver.ErrNoDatabase, nowhere},
		"another database":     {dir, []quicksilver.Option{quicksilver.WithDBID("0ba4a1b2-1c1c-4f6e-9e0a-0c6a3a3f8a12")}, quicksilver.ErrWrongDatabase, dirID},
		"no id":                {dir, []quicksilver.Option{quicksilver.WithDBID("dns")}, quicksilver.ErrInvalidArgument, "dns"},
		"NUL in the directory": {dir + "\x00x", nil, quicksilver.ErrInvalidArgument, "NUL"},
		"NUL in the id":        {dir, []quicksilver.Option{quicksilver.WithDBID("\x00")}, quicksilver.ErrInvalidArgument, "NUL"},
		"no directory":         {"", nil, quicksilver.ErrNoDatabase, "no database"},
	} {
		t.Run(name, func(t *testing.T) {
			db, err := quicksilver.Open(c.dir, c.options...)
			if db != nil || !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("%v, %v; want %v that says %q", db, err, c.want, c.says)
			}
			if !strings.HasPrefix(err.Error(), "quicksilver: open: ") {
				t.Fatal(err)
			}
		})
	}
}

func TestOpenWaitsForADatabase(t *testing.T) {
	late := filepath.Join(t.TempDir(), "late")
	opened := make(chan error)
	go func() {
		db, err := quicksilver.Open(late, quicksilver.WithWait(-1))
		if err == nil {
			err = db.Close()
		}
		opened <- err
	}()
	if err := testdb.Build(late, []testdb.Pair{{Key: "a", Value: "b"}}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-opened:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(soon):
		t.Fatal("it does not see the database")
	}
}

func TestOpenTheRightDatabase(t *testing.T) {
	first, err := quicksilver.Open(dir, quicksilver.WithDBID(dirID), quicksilver.WithWait(soon))
	if err != nil {
		t.Fatal(err)
	}
	// Once more, also by another name: each has its own end.
	other := filepath.Join(t.TempDir(), "other")
	if err := os.Symlink(dir, other); err != nil {
		t.Fatal(err)
	}
	second, err := quicksilver.Open(other)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if value, err := second.Get([]byte("hello")); err != nil || string(value) != "world" {
		t.Fatalf("%q, %v", value, err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestCloseTwice(t *testing.T) {
	db, err := quicksilver.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < 2; n++ {
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestVersion(t *testing.T) {
	if version := quicksilver.Version(); strings.Count(version, ".") != 2 {
		t.Fatal(version)
	}
}
