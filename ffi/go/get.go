package quicksilver

// #include "calls.h"
import "C"

import (
	"runtime"
	"sync"
	"unsafe"
)

// Most values are not longer.
const mostValueBytes = 1024

// A scratch is what a call shows to C. What C may see has to be on the heap; copying the key to
// here lets the caller's stay where it is, on the stack in most programs.
type scratch struct {
	key   [C.QS_KEY_MAX_BYTES + 1]byte
	value [mostValueBytes]byte
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// keep copies a key. One that is too long gets memory of its own, for the library to refuse it.
func (s *scratch) keep(key []byte) (*C.uint8_t, C.size_t) {
	kept := append(s.key[:0], key...)
	return (*C.uint8_t)(unsafe.Pointer(&kept[:1][0])), C.size_t(len(kept))
}

// Get returns the value of a key, or ErrNotFound. The value is the caller's.
func (db *DB) Get(key []byte) ([]byte, error) {
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	value, err := db.appendGet(s.value[:0], key, s)
	if err != nil {
		return nil, err
	}
	if len(value) > len(s.value) {
		return value, nil // it did not fit and has memory of its own
	}
	return copyOf(value), nil
}

// AppendGet appends the value of a key to dst, as append does, and returns the longer slice. It
// allocates only when dst has no room: use its memory again for the next key. With an error,
// such as ErrNotFound, it returns dst as it was.
func (db *DB) AppendGet(dst, key []byte) ([]byte, error) {
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	return db.appendGet(dst, key, s)
}

func (db *DB) appendGet(dst, key []byte, s *scratch) ([]byte, error) {
	kept, size := s.keep(key)
	longer := dst
	for {
		room := longer[len(dst):cap(longer)]
		answer := C.call_get_into(db.handle, kept, size, bytesOf(room), C.size_t(len(room)))
		runtime.KeepAlive(db)
		switch err := failure("get", answer.end); err {
		case nil:
			return longer[:len(dst)+int(answer.number)], nil
		case tooSmall:
			// Once more, with room for it; meanwhile it may have been replaced by a longer one.
			longer = append(dst, make([]byte, answer.number)...)
		default:
			return dst, err
		}
	}
}

// bytesOf returns where a slice's bytes are, for C to look at during one call.
func bytesOf(slice []byte) *C.uint8_t {
	if len(slice) == 0 {
		return nil
	}
	return (*C.uint8_t)(unsafe.Pointer(&slice[0]))
}

// view shows bytes of the library's memory, for as long as those are valid.
func view(slice C.qs_slice) []byte {
	return unsafe.Slice((*byte)(slice.data), int(slice.size))
}

func copyOf(bytes []byte) []byte {
	copied := make([]byte, len(bytes))
	copy(copied, bytes)
	return copied
}

// MultiGet returns the values of several keys, all of one moment, in the order of the keys. The
// value of a key that is not there is nil; an empty one is not.
func (db *DB) MultiGet(keys [][]byte) ([][]byte, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	var all []byte
	sizes := make([]C.size_t, len(keys))
	for n, key := range keys {
		all = append(all, key...)
		sizes[n] = C.size_t(len(key))
	}
	answer := C.call_multi_get(db.handle, bytesOf(all), &sizes[0], C.size_t(len(keys)))
	runtime.KeepAlive(db)
	defer C.call_values_free(answer.values, C.size_t(len(keys)))
	if err := failure("get", answer.end); err != nil {
		return nil, err
	}
	values := make([][]byte, len(keys))
	for n, value := range unsafe.Slice(answer.values, len(keys)) {
		if value.data != nil {
			values[n] = copyOf(view(C.qs_slice{data: value.data, size: value.size}))
		}
	}
	return values, nil
}
