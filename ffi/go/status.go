package quicksilver

// #include "calls.h"
import "C"

import (
	"context"
	"runtime"
	"strconv"
	"time"
	"unsafe"
)

// A State is what a replicator is doing. Later releases may say more.
type State uint64

// The states.
const (
	StateUnknown      State = C.QS_STATE_UNKNOWN      // none has run here yet, or it is of a later release that says another word
	StateStarting     State = C.QS_STATE_STARTING     // opening its environment
	StateRoot         State = C.QS_STATE_ROOT         // a root that accepts writes
	StateFollowing    State = C.QS_STATE_FOLLOWING    // following an upstream
	StateDisconnected State = C.QS_STATE_DISCONNECTED // without an upstream, serving what it has
	StateDiverged     State = C.QS_STATE_DIVERGED     // its log differs from its upstream's: applies nothing
	StateFailed       State = C.QS_STATE_FAILED       // its storage failed: applies nothing
	StateStopped      State = C.QS_STATE_STOPPED      // left in good order
)

// String returns the name that qsctl status and /status have for the state.
func (s State) String() string {
	names := [...]string{
		StateUnknown:      "unknown",
		StateStarting:     "starting",
		StateRoot:         "root",
		StateFollowing:    "following",
		StateDisconnected: "disconnected",
		StateDiverged:     "diverged",
		StateFailed:       "failed",
		StateStopped:      "stopped",
	}
	if s < State(len(names)) {
		return names[s]
	}
	return "state " + strconv.FormatUint(uint64(s), 10)
}

// A Status is what a database says about itself and its replicator. A time that is not known is
// zero.
type Status struct {
	// Index of the last entry that is visible here; 0 before the first.
	Index uint64
	// Index of the oldest entry in the log: a Watch that begins before it begins with a Rescan.
	// One more than Index when the log is empty.
	OldestIndex uint64
	// Which generation of the files is read.
	Generation uint64
	// Number of keys.
	Keys uint64
	// Bytes of all keys and values.
	Bytes uint64
	// When the root made the last batch that is visible here, and when it became visible.
	SealedAt, CommittedAt time.Time
	// The root's clock, as last heard here: everything that was written before is visible.
	Heartbeat time.Time
	// How long ago that was, by this machine's clock: the age of the data. Negative when unknown.
	Lag time.Duration
	// When the replicator started.
	StartedAt time.Time
	// The replicator's process id, in its own namespace; 0 when unknown.
	ReplicatorPID int
	// What it does.
	State State
	// Hash over all entries up to Index, and digest of all pairs there: the same on every machine.
	Hash   [32]byte
	Digest [16]byte
	// The database's id, and which of its pasts this is: another one after a restore.
	DBID, History string
}

// Status describes the database and its replicator.
func (db *DB) Status() (Status, error) {
	var s C.qs_db_status
	end := C.call_status(db.handle, &s)
	runtime.KeepAlive(db)
	if err := failure("status", end); err != nil {
		return Status{}, err
	}
	status := Status{
		Index:         uint64(s.index),
		OldestIndex:   uint64(s.oldest_index),
		Generation:    uint64(s.generation),
		Keys:          uint64(s.keys),
		Bytes:         uint64(s.bytes),
		SealedAt:      timeOf(s.sealed_at_us),
		CommittedAt:   timeOf(s.committed_at_us),
		Heartbeat:     timeOf(s.heartbeat_us),
		Lag:           time.Duration(s.lag_ms) * time.Millisecond,
		StartedAt:     timeOf(s.started_at_us),
		ReplicatorPID: int(s.replicator_pid),
		State:         State(s.state),
		DBID:          C.GoString(&s.db_id[0]),
		History:       C.GoString(&s.history[0]),
	}
	copy(status.Hash[:], unsafe.Slice((*byte)(&s.hash[0]), len(s.hash)))
	copy(status.Digest[:], unsafe.Slice((*byte)(&s.digest[0]), len(s.digest)))
	return status, nil
}

func timeOf(us C.uint64_t) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(us)).UTC()
}

// Index returns the index of the last entry that is visible here; 0 when there has been none. It
// is cheap: "is there anything new?" may be asked on every request.
func (db *DB) Index() (uint64, error) {
	answer := C.call_index(db.handle)
	runtime.KeepAlive(db)
	return uint64(answer.number), failure("index", answer.end)
}

// How long a goroutine may stay in C after the one that it waits for has left.
const lookAfter = 100 * time.Millisecond

// WaitFor waits until the entry with an index is visible here, or ctx is done, whose error it
// then returns. A writer learns the index of its write from the root; waiting for Index plus one
// waits for the next change of any kind.
func (db *DB) WaitFor(ctx context.Context, index uint64) error {
	err := db.wait(index, 0)
	if err != timedOut {
		return err
	}
	waited := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			if err := db.wait(index, lookAfter); err != timedOut {
				waited <- err
				return
			}
		}
	}()
	select {
	case err := <-waited:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wait is timedOut when the entry is not visible within the timeout.
func (db *DB) wait(index uint64, timeout time.Duration) error {
	end := C.call_wait(db.handle, C.uint64_t(index), milliseconds(timeout))
	runtime.KeepAlive(db)
	return failure("wait", end)
}
