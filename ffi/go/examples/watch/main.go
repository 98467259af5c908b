// Prints what lies under a prefix, and then what changes there, as it is written.
//
//	watch [--once N] DIR [PREFIX]
//
// Each line is "set KEY VALUE" or "del KEY". With --once it ends after N lines.
//
//	go run ./examples/watch /var/lib/quicksilver/dns zone/
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"

	"quicksilver"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("watch: ")
	once := flag.Int("once", -1, "end after `N` lines; negative: never")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: watch [--once N] DIR [PREFIX]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 && flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	w := watcher{prefix: []byte(flag.Arg(1)), lines: *once, enough: cancel}
	if err := w.run(ctx, flag.Arg(0)); err != nil {
		log.Fatal(err)
	}
}

type watcher struct {
	db     *quicksilver.DB
	prefix []byte
	lines  int    // that are left to print; any number when negative
	enough func() // is called after the last
}

func (w *watcher) run(ctx context.Context, dir string) (err error) {
	if w.db, err = quicksilver.Open(dir); err != nil {
		return err
	}
	defer w.db.Close()
	index, err := w.printAll()
	if err != nil {
		return err
	}
	// From the moment that was printed on, nothing is missed and nothing comes twice.
	for change := range w.db.Watch(ctx, index, w.prefix) {
		switch change.Kind {
		case quicksilver.Set:
			w.print("set %s %s\n", change.Key, change.Value)
		case quicksilver.Del:
			w.print("del %s\n", change.Key)
		case quicksilver.Rescan: // too much happened meanwhile, or the database was restored
			if _, err := w.printAll(); err != nil {
				return err
			}
		case quicksilver.Failed:
			return change.Err
		}
	}
	return nil
}

// printAll prints everything of one moment, and returns its index.
func (w *watcher) printAll() (uint64, error) {
	snapshot, err := w.db.Snapshot()
	if err != nil {
		return 0, err
	}
	defer snapshot.Close()
	scan := snapshot.Scan(quicksilver.ScanOptions{Prefix: w.prefix})
	defer scan.Close()
	for scan.Next() {
		w.print("set %s %s\n", scan.Key(), scan.Value())
	}
	return snapshot.Index(), scan.Err()
}

func (w *watcher) print(format string, arguments ...any) {
	if w.lines == 0 {
		return
	}
	fmt.Printf(format, arguments...)
	if w.lines--; w.lines == 0 {
		w.enough()
	}
}
