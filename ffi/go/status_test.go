package quicksilver_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"quicksilver"
	"quicksilver/internal/testdb"
)

func TestStatus(t *testing.T) {
	status, err := open(t).Status()
	if err != nil {
		t.Fatal(err)
	}
	pairs := testdb.Pairs()
	count, bytes := uint64(len(pairs)), uint64(0)
	for _, pair := range pairs {
		bytes += uint64(len(pair.Key) + len(pair.Value))
	}
	if status.Index != count || status.Keys != count || status.Bytes != bytes || status.OldestIndex != 1 {
		t.Errorf("%+v", status)
	}
	if status.DBID != dirID || len(status.History) != 36 || status.Generation != 1 {
		t.Errorf("%+v", status)
	}
	if status.Hash == [32]byte{} || status.Digest == [16]byte{} {
		t.Errorf("%+v", status)
	}
	// No replicator has ever run there.
	if status.State != quicksilver.StateStopped || status.Lag >= 0 || !status.Heartbeat.IsZero() {
		t.Errorf("%+v", status)
	}
	if age := time.Since(status.SealedAt); age < 0 || age > time.Hour {
		t.Errorf("made %v ago", age)
	}
}

func TestStatesHaveNames(t *testing.T) {
	for state, want := range map[quicksilver.State]string{
		quicksilver.StateUnknown: "unknown", quicksilver.StateStopped: "stopped", 1000: "state 1000",
	} {
		if state.String() != want {
			t.Errorf("%v is not %q", state, want)
		}
	}
}

func TestWaitFor(t *testing.T) {
	db := open(t)
	index, err := db.Index()
	if err != nil {
		t.Fatal(err)
	}
	if err := db.WaitFor(context.Background(), index); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := db.WaitFor(ctx, index+1); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

func TestCloseEndsThoseWhoWait(t *testing.T) {
	db := open(t)
	index, err := db.Index()
	if err != nil {
		t.Fatal(err)
	}
	waited := make(chan error)
	for n := 0; n < 4; n++ {
		go func() { waited <- db.WaitFor(context.Background(), index+1) }()
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for n := 0; n < 4; n++ {
		select {
		case err := <-waited:
			if !errors.Is(err, quicksilver.ErrClosed) {
				t.Error(err)
			}
		case <-time.After(soon):
			t.Fatal("it still waits")
		}
	}
}
