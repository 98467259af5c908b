package quicksilver_test

import (
	"context"
	"errors"
	"sort"
	"testing"
	"time"

	"quicksilver"
	"quicksilver/internal/testdb"
)

// receive waits for the next change, or for the end.
func receive(t *testing.T, changes <-chan quicksilver.Change) (quicksilver.Change, bool) {
	t.Helper()
	select {
	case change, more := <-changes:
		return change, more
	case <-time.After(soon):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func TestWatchGivesWhatWasWrittenInOrder(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	db, pairs := open(t), testdb.Pairs()
	for _, after := range []int{0, 3, len(pairs) - 1} {
		changes := db.Watch(ctx, uint64(after), nil)
		for n := after; n < len(pairs); n++ {
			change, _ := receive(t, changes)
			if change.Kind != quicksilver.Set || change.Index != uint64(n+1) ||
				string(change.Key) != pairs[n].Key || string(change.Value) != pairs[n].Value {
				t.Fatalf("%v %d %q, not %q", change.Kind, change.Index, change.Key, pairs[n].Key)
			}
			if change.Value == nil || change.Err != nil {
				t.Fatal(change)
			}
		}
	}
	changes := db.Watch(ctx, 0, []byte("zone/"))
	for _, want := range []string{"zone/example.net", "zone/example.org"} {
		if change, _ := receive(t, changes); string(change.Key) != want {
			t.Fatalf("%q, not %q", change.Key, want)
		}
	}
}

func TestAWatchThatFailsSaysWhyAndEnds(t *testing.T) {
	db := open(t)
	fails := func(prefix []byte, want quicksilver.Code) {
		t.Helper()
		changes := db.Watch(context.Background(), 7, prefix)
		change, _ := receive(t, changes)
		if change.Kind != quicksilver.Failed || change.Index != 7 || !errors.Is(change.Err, want) {
			t.Fatal(change)
		}
		if _, more := receive(t, changes); more {
			t.Fatal("it goes on")
		}
	}
	fails(make([]byte, 512), quicksilver.ErrInvalidArgument)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	fails(nil, quicksilver.ErrClosed)
}

func TestAWatchEndsWithItsContext(t *testing.T) {
	db := open(t)
	index, err := db.Index()
	if err != nil {
		t.Fatal(err)
	}
	// In C a call would wait a tenth of a second, each time. Of several, because machines are busy.
	var took []time.Duration
	for n := 0; n < 9; n++ {
		ctx, cancel := context.WithCancel(context.Background())
		// The first is here: from now on it waits, or is about to.
		changes := db.Watch(ctx, index-1, nil)
		receive(t, changes)
		begin := time.Now()
		cancel()
		if change, more := receive(t, changes); more {
			t.Fatal(change)
		}
		took = append(took, time.Since(begin))
	}
	sort.Slice(took, func(a, b int) bool { return took[a] < took[b] })
	t.Logf("between %v and %v after the context", took[0], took[len(took)-1])
	if took[0] > 50*time.Millisecond {
		t.Fatal(took)
	}
}

func TestAWatchEndsAlsoWhenNobodyReceives(t *testing.T) {
	db := open(t)
	ctx, cancel := context.WithCancel(context.Background())
	abandoned := db.Watch(ctx, 0, nil)
	receive(t, abandoned)
	cancel()
	// Close waits for every watch to end.
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAWatchEndsWithItsDatabase(t *testing.T) {
	for _, after := range []uint64{0, uint64(len(testdb.Pairs()))} {
		db := open(t)
		changes := db.Watch(context.Background(), after, nil)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if change, more := receive(t, changes); more {
			t.Fatal(change)
		}
	}
}
