// Package testdb makes databases for tests, without a replicator.
package testdb

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// A Pair is a key and its value.
type Pair struct{ Key, Value string }

// Pairs returns what most tests read. The nth of them is written by the entry with index n, from
// 1 on.
func Pairs() []Pair {
	long := make([]byte, 1<<20)
	for n := range long {
		long[n] = byte(n % 251)
	}
	pairs := []Pair{
		{"hello", "world"},
		{"bin\x00ary", "\x00\xff\n"},
		{"empty", ""},
		{"long", string(long)},
		{"zone/example.net", "192.0.2.2"},
		{"zone/example.org", "192.0.2.1"},
	}
	for n := 0; n < 200; n++ {
		pairs = append(pairs, Pair{fmt.Sprintf("n/%03d", n), fmt.Sprintf("number %d", n)})
	}
	return pairs
}

// Build makes a database of pairs in a directory.
func Build(dir string, pairs []Pair, arguments ...string) error {
	var lines bytes.Buffer
	for _, pair := range pairs {
		fmt.Fprintf(&lines, "{\"key_hex\":\"%x\",\"value_hex\":\"%x\"}\n", pair.Key, pair.Value)
	}
	_, err := qsctl(&lines, append([]string{"build", dir}, arguments...)...)
	return err
}

// SlotsInUse counts the reader slots in which this process holds a snapshot of a database.
func SlotsInUse(dir string) (int, error) {
	said, err := qsctl(nil, "--db", dir, "--json", "readers")
	if err != nil {
		return 0, err
	}
	var table struct {
		Readers []struct {
			PID   int
			InUse int `json:"in_use"`
		}
	}
	if err := json.Unmarshal(said, &table); err != nil {
		return 0, err
	}
	for _, reader := range table.Readers {
		if reader.PID == os.Getpid() {
			return reader.InUse, nil
		}
	}
	return 0, nil
}

// qsctl runs the program qsctl: the one that QSCTL names, or the one in PATH.
func qsctl(input io.Reader, arguments ...string) ([]byte, error) {
	program := os.Getenv("QSCTL")
	if program == "" {
		program = "qsctl"
	}
	var said bytes.Buffer
	command := exec.Command(program, arguments...)
	command.Stdin, command.Stderr = input, &said
	output, err := command.Output()
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w; build it with cargo build -p quicksilver-replicator, and set "+
			"QSCTL to where it is: target/debug/qsctl", err)
	}
	if err != nil {
		return nil, fmt.Errorf("%v: %w: %s", command, err, said.Bytes())
	}
	return output, nil
}
