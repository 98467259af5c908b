package quicksilver

// #include "calls.h"
import "C"

import "context"

// A ChangeKind says what a Change is.
type ChangeKind int

// The kinds of change.
const (
	// The key has this value from this index on.
	Set ChangeKind = C.QS_CHANGE_SET
	// The key is gone from this index on.
	Del ChangeKind = C.QS_CHANGE_DEL
	// Changes are missing: the reader fell behind what the log keeps, or the database was
	// restored to another past. Take a new Snapshot, read again what you need from it, and go on
	// receiving. What the snapshot shows already may come once more.
	Rescan ChangeKind = C.QS_CHANGE_RESCAN
	// Watching failed, with Err, and this is the last change. Nothing is lost: to try again,
	// Watch after its Index.
	Failed ChangeKind = -1
)

// String returns "set", "del", "rescan" or "failed".
func (k ChangeKind) String() string {
	switch k {
	case Set:
		return "set"
	case Del:
		return "del"
	case Failed:
		return "failed"
	}
	return "rescan"
}

// A Change is one thing that happened in a database. Its bytes are the receiver's.
type Change struct {
	Kind  ChangeKind
	Index uint64 // its place in the order of all writes; where to go on after Rescan and Failed
	Key   []byte // of Set and Del
	Value []byte // of Set
	Err   error  // of Failed
}

// Watch gives the changes after an index to keys that begin with prefix (all keys when it is
// empty), in the order in which they were written. None is left out, and none comes before Get
// shows it.
//
// To keep a copy of something up to date, read it from a Snapshot, and watch after the snapshot's
// Index. To go on where an earlier run stopped, keep the Index of the last change.
//
// The channel is closed when ctx is done, when the DB is closed, and after a change of kind Failed.
// It is not buffered: whoever is slow makes nothing pile up, and finds Rescan at worst. Whoever
// stops receiving has to end ctx. While nothing changes a watch occupies one thread of the
// operating system.
func (db *DB) Watch(ctx context.Context, after uint64, prefix []byte) <-chan Change {
	feed, err := db.openFeed(after, prefix)
	if err != nil {
		changes := make(chan Change, 1)
		changes <- Change{Kind: Failed, Index: after, Err: err}
		close(changes)
		return changes
	}
	changes := make(chan Change)
	go feed.run(ctx, changes)
	return changes
}

// A feed is a watch that runs, in one goroutine.
type feed struct {
	db     *DB
	handle C.uintptr_t
	index  uint64 // everything up to it was given
}

func (db *DB) openFeed(after uint64, prefix []byte) (*feed, error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return nil, closed("watch", "database")
	}
	answer := C.call_changes_open(db.handle, C.uint64_t(after), bytesOf(prefix), C.size_t(len(prefix)))
	if err := failure("watch", answer.end); err != nil {
		return nil, err
	}
	db.watchers.Add(1)
	return &feed{db: db, handle: C.uintptr_t(answer.number), index: after}, nil
}

func (f *feed) run(ctx context.Context, changes chan<- Change) {
	defer f.db.watchers.Done()
	// Whoever receives need not wait for the feed to end.
	defer f.close()
	defer close(changes)
	for {
		change, more := f.next(ctx)
		if !more {
			return
		}
		select {
		case changes <- change:
		case <-ctx.Done():
			return
		case <-f.db.closing:
			return
		}
		if change.Kind == Failed {
			return
		}
	}
}

// next waits for the next change. It is false when nobody wants one any more.
func (f *feed) next(ctx context.Context) (Change, bool) {
	if change, any := f.call(0); any {
		return change, true
	}
	// C can be waited for only in another goroutine. Closing the feed ends that one, too.
	called := make(chan Change, 1)
	go func() {
		if change, any := f.call(-1); any {
			called <- change
		}
	}()
	select {
	case change := <-called:
		return change, true
	case <-ctx.Done():
	case <-f.db.closing:
	}
	return Change{}, false
}

// call asks the library for the next change within a time, without end when it is negative.
func (f *feed) call(timeoutMs C.int64_t) (Change, bool) {
	answer := C.call_changes_next(f.handle, timeoutMs)
	switch err := failure("watch", answer.end); err {
	case nil:
		change := changeOf(&answer.change)
		f.index = change.Index
		return change, true
	case timedOut:
		return Change{}, false
	default:
		// Changes to other keys were read meanwhile, and need not be read again.
		if position := C.call_changes_position(f.handle); failure("watch", position.end) == nil {
			f.index = uint64(position.number)
		}
		return Change{Kind: Failed, Index: f.index, Err: err}, true
	}
}

func changeOf(c *C.qs_change) Change {
	change := Change{Kind: ChangeKind(c.kind), Index: uint64(c.index)}
	switch change.Kind {
	case Set:
		change.Key, change.Value = copyOf(view(c.key)), copyOf(view(c.value))
	case Del:
		change.Key = copyOf(view(c.key))
	default:
		change.Kind = Rescan // also what a later library may call otherwise
	}
	return change
}

func (f *feed) close() {
	// It was open until now: there is nothing to fail.
	_ = failure("watch", C.call_changes_close(f.handle))
}
