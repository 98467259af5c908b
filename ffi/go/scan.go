package quicksilver

// #include "calls.h"
import "C"

import "runtime"

// ScanOptions say which pairs a scan gives, and in which order: all of them in the order of the
// keys (byte by byte), unless something is set. What is set together holds together.
type ScanOptions struct {
	Prefix       []byte // only keys that begin with it
	From         []byte // only keys that are not before it; any when empty
	To           []byte // only keys before it; any when empty
	FromExcluded bool   // leave the key From itself out
	ToIncluded   bool   // take the key To itself in
	Backward     bool   // from the last pair to the first
	Limit        uint64 // at most so many pairs; any number when 0
}

func (o *ScanOptions) flags() (flags C.uint64_t) {
	if o.FromExcluded {
		flags |= C.QS_SCAN_FROM_EXCLUDED
	}
	if o.ToIncluded {
		flags |= C.QS_SCAN_TO_INCLUDED
	}
	if o.Backward {
		flags |= C.QS_SCAN_BACKWARD
	}
	return flags
}

// A Scan is a walk over the pairs of a snapshot. It is used by one goroutine at a time:
//
//	scan := snapshot.Scan(quicksilver.ScanOptions{Prefix: []byte("zone/")})
//	defer scan.Close()
//	for scan.Next() {
//		fmt.Printf("%s %s\n", scan.Key(), scan.Value())
//	}
//	if err := scan.Err(); err != nil {
//		return err
//	}
type Scan struct {
	handle C.uintptr_t
	// The pair, key before value: memory of ours, so that nobody can be left with a slice of
	// memory that has gone.
	pair    []byte
	keySize int
	err     error
	ended   bool
}

// Scan begins a scan. What is wrong with the options, Err says. The scan keeps what it shows
// alive, also when the snapshot is closed before it.
func (s *Snapshot) Scan(options ScanOptions) *Scan {
	if !s.holders.enter() {
		return &Scan{err: closed("scan", "snapshot"), ended: true}
	}
	defer s.leave()
	answer := C.call_scan_begin(s.handle, options.flags(), C.uint64_t(options.Limit),
		bytesOf(options.Prefix), C.size_t(len(options.Prefix)),
		bytesOf(options.From), C.size_t(len(options.From)),
		bytesOf(options.To), C.size_t(len(options.To)))
	if err := failure("scan", answer.end); err != nil {
		return &Scan{err: err, ended: true}
	}
	scan := &Scan{handle: C.uintptr_t(answer.number)}
	runtime.SetFinalizer(scan, (*Scan).Close)
	return scan
}

// Next goes to the next pair. It is false after the last one and after an error, and closes the
// scan then.
func (s *Scan) Next() bool {
	if s.ended {
		return false
	}
	answer := C.call_scan_next(s.handle)
	if err := failure("scan", answer.end); err != nil {
		if err != ErrNotFound {
			s.err = err
		}
		s.Close()
		return false
	}
	key, value := view(answer.key), view(answer.value)
	s.pair = append(append(s.pair[:0], key...), value...)
	s.keySize = len(key)
	runtime.KeepAlive(s)
	return true
}

// Key returns the key of the pair. It is overwritten by the next call of Next.
func (s *Scan) Key() []byte {
	return s.pair[:s.keySize:s.keySize]
}

// Value returns the value of the pair. It is overwritten by the next call of Next.
func (s *Scan) Value() []byte {
	return s.pair[s.keySize:len(s.pair):len(s.pair)]
}

// Err returns what has ended the scan before its end; nil when nothing has.
func (s *Scan) Err() error {
	return s.err
}

// Close ends the scan; one that has ended stays so, and the error is nil.
func (s *Scan) Close() error {
	if s.ended {
		return nil
	}
	s.ended = true
	runtime.SetFinalizer(s, nil)
	return failure("close", C.call_scan_end(s.handle))
}
