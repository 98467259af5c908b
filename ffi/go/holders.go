package quicksilver

import "sync/atomic"

// holders counts who uses something, and leaves its end to the last of them: closing need not
// wait, and nobody's memory goes away under him.
type holders struct {
	// Twice their number; plus one when nobody may enter any more.
	state atomic.Int64
}

const (
	closedToAll = 1
	oneHolder   = 2
)

// enter reports whether the thing may be used; then leave must follow.
func (h *holders) enter() bool {
	for {
		state := h.state.Load()
		if state&closedToAll != 0 {
			return false
		}
		if h.state.CompareAndSwap(state, state+oneHolder) {
			return true
		}
	}
}

// leave reports whether the one who leaves has to end the thing.
func (h *holders) leave() bool {
	return h.state.Add(-oneHolder) == closedToAll
}

// close lets nobody enter any more, and reports whether the caller has to end the thing.
func (h *holders) close() bool {
	for {
		state := h.state.Load()
		if state&closedToAll != 0 {
			return false
		}
		if h.state.CompareAndSwap(state, state|closedToAll) {
			return state == 0
		}
	}
}
