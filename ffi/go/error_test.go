package quicksilver_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"quicksilver"
)

// The codes that calls return, by the numbers of the library.
var codes = map[quicksilver.Code]string{
	quicksilver.ErrNotFound:        "no such key",
	quicksilver.ErrInvalidArgument: "invalid argument",
	quicksilver.ErrClosed:          "closed",
	quicksilver.ErrCorrupt:         "damaged",
	quicksilver.ErrNoDatabase:      "no database",
	quicksilver.ErrPermission:      "permission",
	quicksilver.ErrFormat:          "format",
	quicksilver.ErrForked:          "fork",
	quicksilver.ErrIO:              "input/output",
	quicksilver.ErrPanic:           "bug",
	quicksilver.ErrWrongDatabase:   "another database",
	quicksilver.ErrAlreadyOpen:     "already open",
	quicksilver.ErrBusy:            "busy",
	quicksilver.ErrNoMemory:        "memory",
	quicksilver.ErrUnsupported:     "not readable",
	quicksilver.ErrBehind:          "older",
}

// What the package does not let out: a buffer that was too small, and a time that has passed.
var inner = map[quicksilver.Code]bool{16: true, 17: true}

func TestEveryCodeOfTheLibraryHasItsError(t *testing.T) {
	const unknown = "unknown"
	for code, says := range codes {
		if !strings.Contains(code.Error(), says) {
			t.Errorf("%d is %q, and not %q", code, code.Error(), says)
		}
	}
	if text := quicksilver.Code(-1).Error(); !strings.Contains(text, unknown) {
		t.Fatal(text)
	}
	for code := quicksilver.Code(1); !strings.Contains(code.Error(), unknown); code++ {
		if codes[code] == "" && !inner[code] {
			t.Errorf("error.go lacks code %d: %s", code, code.Error())
		}
	}
}

func TestErrorsCanBeLookedInto(t *testing.T) {
	_, err := open(t).Get(nil)
	wrapped := fmt.Errorf("reading: %w", err)
	var e *quicksilver.Error
	if !errors.As(wrapped, &e) || e.Code != quicksilver.ErrInvalidArgument || e.Op != "get" || e.Msg == "" {
		t.Fatalf("%#v", err)
	}
	var code quicksilver.Code
	if !errors.As(wrapped, &code) || code != e.Code {
		t.Fatal(code)
	}
	if !errors.Is(wrapped, quicksilver.ErrInvalidArgument) || errors.Is(wrapped, quicksilver.ErrNotFound) {
		t.Fatal(wrapped)
	}
	if want := "quicksilver: get: " + e.Msg; err.Error() != want {
		t.Fatalf("%q, not %q", err, want)
	}
}

// The library keeps the message by thread, and goroutines change threads as they like.
func TestMessagesAreOfTheCallThatFailed(t *testing.T) {
	var all sync.WaitGroup
	for n := 0; n < 16; n++ {
		nowhere := filepath.Join(t.TempDir(), fmt.Sprint("nowhere-", n))
		all.Add(1)
		go func() {
			defer all.Done()
			for i := 0; i < 200; i++ {
				if _, err := quicksilver.Open(nowhere); err == nil || !strings.Contains(err.Error(), nowhere+":") {
					t.Errorf("%s: %v", nowhere, err)
					return
				}
			}
		}()
	}
	all.Wait()
}
