// A tiny server that answers out of the database.
//
//	dns [--once N] DIR
//
// A datagram holds a name, such as example.org; the answer is the value of the key
// zone/example.org, or NXDOMAIN. It prints the address that it listens on. With --once it answers
// N questions and ends.
//
//	go run ./examples/dns /var/lib/quicksilver/dns &
//	echo example.org | nc -u -w1 127.0.0.1 PORT
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"

	"quicksilver"
)

const questionMaxBytes = 255

func main() {
	log.SetFlags(0)
	log.SetPrefix("dns: ")
	once := flag.Int("once", -1, "end after `N` answers; negative: never")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: dns [--once N] DIR")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := serve(flag.Arg(0), *once); err != nil {
		log.Fatal(err)
	}
}

// serve answers as many questions, or without end when the number is negative.
func serve(dir string, questions int) error {
	db, err := quicksilver.Open(dir)
	if err != nil {
		return err
	}
	defer db.Close()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer server.Close()
	fmt.Println("listening on", server.LocalAddr())

	// The same memory for every question: reading allocates nothing.
	question, reply := make([]byte, questionMaxBytes), make([]byte, 0, 4096)
	for ; questions != 0; questions-- {
		size, client, err := server.ReadFrom(question)
		if err != nil {
			return err
		}
		reply = answer(reply[:0], db, question[:size])
		if _, err := server.WriteTo(reply, client); err != nil {
			log.Print(err) // a client that is gone
		}
	}
	return nil
}

// answer appends the answer to a name.
func answer(reply []byte, db *quicksilver.DB, name []byte) []byte {
	if end := bytes.IndexAny(name, " \r\n"); end >= 0 {
		name = name[:end]
	}
	key := append([]byte("zone/"), bytes.ToLower(name)...)
	reply, err := db.AppendGet(reply, key)
	switch {
	case errors.Is(err, quicksilver.ErrNotFound):
		return append(reply, "NXDOMAIN"...)
	case err != nil:
		// Say why, and go on: the next question may well have an answer.
		log.Print(err)
		return append(reply, "SERVFAIL"...)
	}
	return reply
}
