package quicksilver_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"quicksilver"
	"quicksilver/internal/testdb"
)

// The database that most tests read: testdb.Pairs, with this id.
var dir string

const dirID = "0ba4a1b2-1c1c-4f6e-9e0a-0c6a3a3f8a11"

// For what takes milliseconds when the machine is not busy.
const soon = 60 * time.Second

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	temporary, err := os.MkdirTemp("", "quicksilver-go-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(temporary)
	dir = filepath.Join(temporary, "db")
	if err := testdb.Build(dir, testdb.Pairs(), "--db-id", dirID); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// open opens the database until the end of a test.
func open(tb testing.TB) *quicksilver.DB {
	tb.Helper()
	db, err := quicksilver.Open(dir)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { db.Close() })
	return db
}

// snapshot begins a snapshot until the end of a test.
func snapshot(tb testing.TB) *quicksilver.Snapshot {
	tb.Helper()
	s, err := open(tb).Snapshot()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}
