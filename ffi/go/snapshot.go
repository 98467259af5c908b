package quicksilver

// #include "calls.h"
import "C"

import "runtime"

// A Snapshot is one moment of a database, in which nothing changes, however long it lasts. It may
// be used by several goroutines, whose calls wait for each other.
//
// Close it soon: while it lasts the database cannot use space again that the snapshot still
// shows, and each one takes one of the database's reader slots (4096, for all processes).
type Snapshot struct {
	handle  C.uintptr_t
	index   uint64
	holders holders
}

// Snapshot begins a snapshot of this moment. It does not depend on the DB, which may be closed
// before.
func (db *DB) Snapshot() (*Snapshot, error) {
	answer := C.call_snapshot_begin(db.handle)
	runtime.KeepAlive(db)
	if err := failure("snapshot", answer.end); err != nil {
		return nil, err
	}
	s := &Snapshot{handle: answer.handle, index: uint64(answer.index)}
	runtime.SetFinalizer(s, (*Snapshot).Close)
	return s, nil
}

// Index returns the index of the last entry that the snapshot shows. What comes after it is what
// Watch with this index gives.
func (s *Snapshot) Index() uint64 {
	return s.index
}

// Get returns the value of a key, or ErrNotFound. The value is the caller's.
func (s *Snapshot) Get(key []byte) (value []byte, err error) {
	err = s.View(key, func(shown []byte) error {
		value = copyOf(shown)
		return nil
	})
	return value, err
}

// View calls fn with the value of a key, in place: nothing is copied. The bytes are valid until fn
// returns, and are shared memory, mapped read-only: writing to them ends the process. View
// returns what fn returns; ErrNotFound, without calling fn, when there is no such key.
func (s *Snapshot) View(key []byte, fn func(value []byte) error) error {
	if !s.holders.enter() {
		return closed("get", "snapshot")
	}
	// Deferred, because fn may panic.
	defer s.leave()
	value, err := s.get(key)
	if err != nil {
		return err
	}
	return fn(value)
}

func (s *Snapshot) get(key []byte) ([]byte, error) {
	kept := scratches.Get().(*scratch)
	defer scratches.Put(kept)
	data, size := kept.keep(key)
	answer := C.call_snapshot_get(s.handle, data, size)
	if err := failure("get", answer.end); err != nil {
		return nil, err
	}
	return view(answer.value), nil
}

func (s *Snapshot) leave() {
	if s.holders.leave() {
		// Nobody is left to be told of an error, and there is none to expect.
		_ = s.end()
	}
}

// Close ends the snapshot; one that was closed already stays so, and the error is nil. Calls that
// begin later fail with ErrClosed. Those that run are completed, and the last of them ends the
// snapshot; scans go on until their own end.
func (s *Snapshot) Close() error {
	if s.holders.close() {
		return s.end()
	}
	return nil
}

func (s *Snapshot) end() error {
	runtime.SetFinalizer(s, nil)
	return failure("close", C.call_snapshot_end(s.handle))
}
