package quicksilver_test

import (
	"context"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"quicksilver"
	"quicksilver/internal/testdb"
)

// eventually looks until something is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(soon); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not so: ", what)
		}
	}
}

func TestGoroutinesEnd(t *testing.T) {
	db := open(t)
	index, err := db.Index()
	if err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(context.Background())
	for n := 0; n < 50; n++ {
		db.Watch(ctx, 0, nil)             // wants to send
		receive(t, db.Watch(ctx, 0, nil)) // has sent
		db.Watch(ctx, index, nil)         // waits in C
		go func() { _ = db.WaitFor(ctx, index+1) }()
	}
	cancel()
	eventually(t, "as many goroutines as before", func() bool {
		return runtime.NumGoroutine() <= before
	})
}

// A database has 4096 reader slots, and whatever shows a snapshot holds one.
func slotsInUse(t *testing.T) int {
	t.Helper()
	count, err := testdb.SlotsInUse(dir)
	if err != nil {
		t.Fatal(err)
	}
	return count
}

func TestSlotsAreGivenBack(t *testing.T) {
	db := open(t)
	for n := 0; n < 5_000; n++ {
		s, err := db.Snapshot()
		if err != nil {
			t.Fatal(n, err)
		}
		complete, halfway := s.Scan(scanOptions{Prefix: []byte("zone/")}), s.Scan(scanOptions{})
		for complete.Next() {
			continue
		}
		if !halfway.Next() || complete.Err() != nil || s.Close() != nil {
			t.Fatal(n, halfway.Err(), complete.Err())
		}
		if n == 0 && slotsInUse(t) != 1 {
			t.Fatal("the scan does not hold its snapshot")
		}
		if err := halfway.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if count := slotsInUse(t); count != 0 {
		t.Fatal(count, "are in use")
	}
}

// Whoever forgets to close does not hold on for ever.
func TestTheCollectorClosesWhatWasForgotten(t *testing.T) {
	const forgotten = 20
	func() {
		var all [forgotten]*quicksilver.Scan
		for n := range all {
			db, err := quicksilver.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			s, err := db.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			all[n] = s.Scan(scanOptions{})
			if !all[n].Next() {
				t.Fatal(all[n].Err())
			}
		}
		if count := slotsInUse(t); count != forgotten {
			t.Fatal(count, "are in use")
		}
		runtime.KeepAlive(&all)
	}()
	eventually(t, "no slot is in use", func() bool {
		runtime.GC()
		return slotsInUse(t) == 0
	})
}

// What C allocates for Go is freed: values, and the messages of failures.
func TestMemoryIsGivenBack(t *testing.T) {
	db := open(t)
	use := func() {
		for n := 0; n < 200; n++ {
			if _, err := db.MultiGet([][]byte{[]byte("long"), []byte("hello")}); err != nil {
				t.Fatal(err)
			}
		}
		for n := 0; n < 500_000; n++ {
			if _, err := db.Index(); err != nil {
				t.Fatal(err)
			}
			if _, err := db.Get(nil); err == nil {
				t.Fatal("a value of no key")
			}
		}
		runtime.GC()
	}
	use()
	before := residentBytes(t)
	use() // 200 MiB of values, and 30 MB of messages
	if more := residentBytes(t) - before; more > 16<<20 {
		t.Fatalf("%d more bytes", more)
	}
}

func residentBytes(t *testing.T) int {
	t.Helper()
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
