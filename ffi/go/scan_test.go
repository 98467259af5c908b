package quicksilver_test

import (
	"errors"
	"fmt"
	"sort"
	"strings"
	"testing"

	"quicksilver"
	"quicksilver/internal/testdb"
)

type scanOptions = quicksilver.ScanOptions

// keys walks a scan to its end.
func keys(t *testing.T, scan *quicksilver.Scan) (keys []string) {
	t.Helper()
	for scan.Next() {
		keys = append(keys, string(scan.Key()))
	}
	if err := scan.Err(); err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestScanGivesEveryPairInOrder(t *testing.T) {
	pairs := testdb.Pairs()
	sort.Slice(pairs, func(a, b int) bool { return pairs[a].Key < pairs[b].Key })
	scan := snapshot(t).Scan(scanOptions{})
	for _, pair := range pairs {
		if !scan.Next() {
			t.Fatal("it ends before", pair.Key, scan.Err())
		}
		if string(scan.Key()) != pair.Key || string(scan.Value()) != pair.Value {
			t.Fatalf("%q %.20q, not %q", scan.Key(), scan.Value(), pair.Key)
		}
		// Appending to the one does not spoil the other.
		_ = append(scan.Key(), "more"...)
		if string(scan.Value()) != pair.Value {
			t.Fatalf("%q: the value was overwritten", pair.Key)
		}
	}
	for n := 0; n < 2; n++ {
		if scan.Next() || scan.Err() != nil || scan.Close() != nil {
			t.Fatal("it does not end")
		}
	}
}

func TestScanOptions(t *testing.T) {
	s := snapshot(t)
	b := func(text string) []byte { return []byte(text) }
	for _, c := range []struct {
		options scanOptions
		want    string
	}{
		{scanOptions{Prefix: b("zone/")}, "zone/example.net zone/example.org"},
		{scanOptions{Prefix: b("zone/"), Backward: true}, "zone/example.org zone/example.net"},
		{scanOptions{Prefix: b("n/19"), Limit: 2}, "n/190 n/191"},
		{scanOptions{Prefix: b("n/19"), Limit: 2, Backward: true}, "n/199 n/198"},
		{scanOptions{From: b("n/197"), To: b("n/199")}, "n/197 n/198"},
		{scanOptions{From: b("n/197"), To: b("n/199"), FromExcluded: true, ToIncluded: true}, "n/198 n/199"},
		{scanOptions{From: b("n/197"), To: b("n/199"), Backward: true}, "n/198 n/197"},
		{scanOptions{Prefix: b("n/"), From: b("n/198")}, "n/198 n/199"},
		{scanOptions{Prefix: b("m/")}, ""},
		{scanOptions{From: b("b"), To: b("a")}, ""},
	} {
		if got := strings.Join(keys(t, s.Scan(c.options)), " "); got != c.want {
			t.Errorf("%+v: %q, not %q", c.options, got, c.want)
		}
	}
	for _, bad := range []scanOptions{
		{Prefix: make([]byte, 512)}, {From: make([]byte, 512)}, {To: make([]byte, 512)},
	} {
		scan := s.Scan(bad)
		if scan.Next() || !errors.Is(scan.Err(), quicksilver.ErrInvalidArgument) || scan.Close() != nil {
			t.Error(scan.Err())
		}
	}
}

func TestAScanGoesOnWithoutItsSnapshot(t *testing.T) {
	s := snapshot(t)
	scan := s.Scan(scanOptions{Prefix: []byte("n/")})
	if !scan.Next() {
		t.Fatal(scan.Err())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for n := 1; n < 100; n++ {
		if want := fmt.Sprintf("n/%03d", n); !scan.Next() || string(scan.Key()) != want {
			t.Fatalf("%q, not %q: %v", scan.Key(), want, scan.Err())
		}
	}
	// One that was closed halfway has not failed; it gives nothing more.
	if err := scan.Close(); err != nil {
		t.Fatal(err)
	}
	if scan.Next() || scan.Err() != nil {
		t.Fatal(scan.Err())
	}
	if scan := s.Scan(scanOptions{}); scan.Next() || !errors.Is(scan.Err(), quicksilver.ErrClosed) {
		t.Fatal(scan.Err())
	}
}
