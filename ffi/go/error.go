package quicksilver

// #include "calls.h"
import "C"

import (
	"unsafe"
)

// A Code says what kind of failure an error is. Codes are errors themselves, to be compared with:
//
//	if errors.Is(err, quicksilver.ErrNotFound) { … }
//
// Later releases may return codes that are not listed here.
type Code int

// What a call may fail with.
const (
	// There is no such key.
	ErrNotFound Code = C.QS_NOT_FOUND
	// An argument is out of its bounds.
	ErrInvalidArgument Code = C.QS_INVALID_ARGUMENT
	// The DB, Snapshot or Scan was closed.
	ErrClosed Code = C.QS_CLOSED
	// Stored data is damaged. No value was returned; see qsctl verify.
	ErrCorrupt Code = C.QS_CORRUPT
	// There is no database in that directory.
	ErrNoDatabase Code = C.QS_NO_DATABASE
	// The process lacks a permission: readers need read access to the data file and read and
	// write access to the lock file.
	ErrPermission Code = C.QS_PERMISSION
	// The database is in a format that the library cannot read: upgrade the library.
	ErrFormat Code = C.QS_FORMAT
	// The database was opened before a fork; open it again in the child. A program in Go does
	// not meet it, unless C code in it forks.
	ErrForked Code = C.QS_FORKED
	// The operating system refused.
	ErrIO Code = C.QS_IO
	// A bug in the library was caught.
	ErrPanic Code = C.QS_PANIC
	// The directory holds another database than the one that was asked for.
	ErrWrongDatabase Code = C.QS_WRONG_DATABASE
	// Another copy of the library in this process has the database open: use one copy.
	ErrAlreadyOpen Code = C.QS_ALREADY_OPEN
	// All reader slots are taken, or the database stayed locked: try again later.
	ErrBusy Code = C.QS_BUSY
	// There was not enough memory or address space.
	ErrNoMemory Code = C.QS_NO_MEMORY
	// The database cannot be read in this environment: a read-only mount, a network file
	// system, a process with the same number in another PID namespace, or an unsuitable LMDB.
	ErrUnsupported Code = C.QS_UNSUPPORTED
	// An older copy of the database was put in its place; the DB has seen newer data. It goes on
	// when the replicator has caught up, or open the database anew.
	ErrBehind Code = C.QS_BEHIND
)

// These do not leave the package.
const (
	ok       Code = C.QS_OK
	tooSmall Code = C.QS_TOO_SMALL
	timedOut Code = C.QS_TIMEOUT
)

// Error says what the code means, in a few words.
func (c Code) Error() string {
	return "quicksilver: " + C.GoString(C.qs_strerror(C.int(c)))
}

// An Error is a call that failed. A missing key is not one: that is ErrNotFound itself.
type Error struct {
	Code Code   // what kind of failure
	Op   string // what was done: "open", "get", …
	Msg  string // what was found, and what to do
}

func (e *Error) Error() string {
	return "quicksilver: " + e.Op + ": " + e.Msg
}

// Unwrap returns the code, which makes errors.Is(err, ErrCorrupt) work.
func (e *Error) Unwrap() error {
	return e.Code
}

// failure makes an error of the end of a call, and frees its message. It is nil after success.
func failure(op string, end C.call_end) error {
	code := Code(end.code)
	switch code {
	case ok:
		return nil
	case ErrNotFound, tooSmall, timedOut:
		// They are no failures, come often, and have nothing to add.
		return code
	}
	msg := C.GoString(end.message)
	C.free(unsafe.Pointer(end.message))
	if msg == "" {
		msg = C.GoString(C.qs_strerror(C.int(code)))
	}
	return &Error{Code: code, Op: op, Msg: msg}
}

func closed(op, what string) error {
	return &Error{Code: ErrClosed, Op: op, Msg: "the " + what + " was closed"}
}
