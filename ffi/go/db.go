package quicksilver

// #cgo pkg-config: quicksilver
// #include "calls.h"
import "C"

import (
	"math"
	"runtime"
	"strings"
	"sync"
	"time"
	"unsafe"
)

// A DB is an open database. Any number of goroutines may use it at the same time.
type DB struct {
	handle C.uintptr_t
	// Closed by Close, for those who watch.
	closing  chan struct{}
	closed   bool           // whether it was
	watchers sync.WaitGroup // counted up only while it was not
	mu       sync.Mutex     // of these two
}

// An Option changes how a database is opened.
type Option func(*options)

type options struct {
	id   string
	wait time.Duration
}

// WithDBID refuses a database that has another id (a UUID) than this one.
func WithDBID(id string) Option {
	return func(o *options) { o.id = id }
}

// WithWait waits for a database that is not there yet, without end when d is negative. A replicator
// that starts for the first time makes its database within a second or two.
func WithWait(d time.Duration) Option {
	return func(o *options) { o.wait = d }
}

// Open opens the database in a directory, the data_dir of a replicator. The replicator need not
// run: what it left is readable. Opening a database once more shares what is open.
func Open(dir string, opts ...Option) (*DB, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	for _, text := range []string{dir, o.id} {
		if strings.IndexByte(text, 0) >= 0 {
			return nil, &Error{
				Code: ErrInvalidArgument, Op: "open", Msg: "a directory or an id contains NUL",
			}
		}
	}
	cDir := C.CString(dir)
	defer C.free(unsafe.Pointer(cDir))
	var cID *C.char
	if o.id != "" {
		cID = C.CString(o.id)
		defer C.free(unsafe.Pointer(cID))
	}
	answer := C.call_open(cDir, cID, milliseconds(o.wait))
	if err := failure("open", answer.end); err != nil {
		return nil, err
	}
	db := &DB{handle: C.uintptr_t(answer.number), closing: make(chan struct{})}
	runtime.SetFinalizer(db, (*DB).Close)
	return db, nil
}

// milliseconds rounds up: a short wait is not none. A negative one has no end.
func milliseconds(d time.Duration) C.int64_t {
	if d > math.MaxInt64-time.Millisecond {
		return C.int64_t(d / time.Millisecond)
	}
	if d < 0 {
		return -1
	}
	return C.int64_t((d + time.Millisecond - 1) / time.Millisecond)
}

// Close closes the database; a DB that was closed already stays so, and the error is nil. Calls
// that begin later fail with ErrClosed; those that run are completed, and those that wait are
// ended within a tenth of a second. Channels from Watch are closed. Snapshots go on until their
// own end.
func (db *DB) Close() error {
	runtime.SetFinalizer(db, nil)
	db.mu.Lock()
	if !db.closed {
		db.closed = true
		close(db.closing)
	}
	db.mu.Unlock()
	db.watchers.Wait()
	err := failure("close", C.call_close(db.handle))
	if e, failed := err.(*Error); failed && e.Code == ErrClosed {
		return nil
	}
	return err
}

// Version returns the version of libquicksilver, such as "1.2.3".
func Version() string {
	return C.GoString(C.qs_version())
}
