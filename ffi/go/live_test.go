package quicksilver_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"sort"
	"strings"
	"testing"
	"time"

	"quicksilver"
)

// A root is the client socket of a replicator that accepts writes.
type root struct {
	connection net.Conn
	replies    *bufio.Reader
}

// write sends one command, whose reply is one line, and returns when it is acknowledged.
func (r *root) write(t *testing.T, words ...string) {
	t.Helper()
	command := fmt.Sprintf("*%d\r\n", len(words))
	for _, word := range words {
		command += fmt.Sprintf("$%d\r\n%s\r\n", len(word), word)
	}
	if _, err := r.connection.Write([]byte(command)); err != nil {
		t.Fatal(err)
	}
	reply, err := r.replies.ReadString('\n')
	if err != nil || strings.HasPrefix(reply, "-") {
		t.Fatal(words, reply, err)
	}
}

// besideALeaf finds the replicators that tests/tests/c_programs.rs has started: the data_dir of a
// leaf, and the client socket of its root.
func besideALeaf(t *testing.T) (*quicksilver.DB, *root) {
	t.Helper()
	leaf, socket := os.Getenv("QS_TEST_LEAF"), os.Getenv("QS_TEST_ROOT")
	if leaf == "" || socket == "" {
		t.Skip("QS_TEST_LEAF and QS_TEST_ROOT name no replicators")
	}
	db, err := quicksilver.Open(leaf, quicksilver.WithWait(soon))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	connection, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	if err := connection.SetDeadline(time.Now().Add(3 * soon)); err != nil {
		t.Fatal(err)
	}
	return db, &root{connection, bufio.NewReader(connection)}
}

func TestWhatIsWrittenIsWatched(t *testing.T) {
	db, root := besideALeaf(t)
	root.write(t, "SET", "go/moment", "before")
	eventually(t, "the leaf has it", func() bool {
		value, err := db.Get([]byte("go/moment"))
		return err == nil && string(value) == "before"
	})
	snapshot, err := db.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snapshot.Close()

	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	changes := db.Watch(ctx, snapshot.Index(), []byte("go/"))
	index := snapshot.Index()
	var took []time.Duration
	expect := func(kind quicksilver.ChangeKind, value string, words ...string) {
		t.Helper()
		root.write(t, "SET", "other", fmt.Sprint(index)) // nobody watches it
		begin := time.Now()
		root.write(t, words...)
		change, _ := receive(t, changes)
		took = append(took, time.Since(begin))
		if change.Kind != kind || string(change.Key) != words[1] || string(change.Value) != value || change.Index <= index {
			t.Fatalf("%v %q %q %d %v, after %q", change.Kind, change.Key, change.Value, change.Index, change.Err, words)
		}
		index = change.Index
		// What was announced can be read.
		got, err := db.Get(change.Key)
		if kind == quicksilver.Del && err != quicksilver.ErrNotFound || kind == quicksilver.Set && string(got) != value {
			t.Fatalf("%q, %v, after %q", got, err, words)
		}
	}
	for n := 0; n < 20; n++ {
		value := fmt.Sprintf("%d %s", n, strings.Repeat("long", n*n))
		expect(quicksilver.Set, value, "SET", "go/moment", value)
		expect(quicksilver.Del, "", "DEL", "go/moment")
	}
	sort.Slice(took, func(a, b int) bool { return took[a] < took[b] })
	t.Logf("from the write to the change: %v in the middle, %v at most", took[len(took)/2], took[len(took)-1])

	// The moment of the snapshot is still that moment.
	if value, err := snapshot.Get([]byte("go/moment")); err != nil || string(value) != "before" {
		t.Fatalf("%q, %v", value, err)
	}
	cancel()
	if change, more := receive(t, changes); more {
		t.Fatal(change)
	}
}

func TestWaitForAWrite(t *testing.T) {
	db, root := besideALeaf(t)
	index, err := db.Index()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	waited := make(chan error)
	go func() { waited <- db.WaitFor(ctx, index+10) }()
	for n := 0; n < 10; n++ {
		root.write(t, "SET", "go/waited for", fmt.Sprint(n, time.Now()))
	}
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
	if now, err := db.Index(); err != nil || now < index+10 {
		t.Fatal(now, err)
	}
}

func TestStatusOfALeaf(t *testing.T) {
	db, _ := besideALeaf(t)
	eventually(t, "the leaf follows, and knows how old its data is", func() bool {
		status, err := db.Status()
		if err != nil {
			t.Fatal(err)
		}
		return status.State == quicksilver.StateFollowing && status.ReplicatorPID > 0 &&
			status.Lag >= 0 && !status.Heartbeat.IsZero() && !status.StartedAt.IsZero()
	})
}
