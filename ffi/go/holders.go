package quicksilver

import "sync"

// holders counts who uses something, and leaves its end to the last of them: closing need not
// wait, and nobody's memory goes away under him.
type holders struct {
	mu     sync.Mutex
	count  int
	closed bool
}

// enter reports whether the thing may be used; then leave must follow.
func (h *holders) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.count++
	return true
}

// leave reports whether the one who leaves has to end the thing.
func (h *holders) leave() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count--
	return h.closed && h.count == 0
}

// close lets nobody enter any more, and reports whether the caller has to end the thing.
func (h *holders) close() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	first := !h.closed
	h.closed = true
	return first && h.count == 0
}
