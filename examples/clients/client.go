// A client of the chat's JSON protocol, with Go's standard library only. It sends the lines of its standard input as
// messages, and prints each message of another member as NAME:TEXT: go run client.go localhost:8989 Mina dev
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand"
	"net"
	"os"
	"strings"
	"time"
)

const maxInFlight, backoffCap = 64, 15 * time.Second
const known = "welcome message deleted ack renamed notice error bye"
const temporary = "draining server_full room_full handshake_timeout server_error unavailable"

type frame struct { // from the server; fields that are not here are ignored
	Type, Name, Room, Session, Epoch, Text, ID, To, Code, Detail, Reason string
	Seq                                                                  *int64 // nil in the `ack` of a whisper
	TS                                                                   int64
	Recovered                                                            *bool
	Duplicate, Reconnect                                                 bool
	After                                                                float64
	Limits                                                               map[string]float64
}

type message struct { // typed, and not answered
	id, text string
	number   int       // its position in the order of typing
	since    time.Time // when it was first written
	inFlight bool
}

type client struct {
	name, room, session, epoch            string
	seq, ts                               int64 // the place in the room
	limits                                map[string]float64
	pending                               []*message
	typed, exitCode                       int
	inRoom, holding, inputEnded, finished bool    // holding: the server cannot keep messages for now
	after                                 float64 // the seconds that the server asks for
	out                                   chan []byte
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: client HOST:PORT NAME ROOM")
		os.Exit(2)
	}
	rand.Seed(time.Now().UnixNano())
	input := lines(os.Stdin)
	c := &client{name: os.Args[2], room: os.Args[3]}
	for attempt := 0; ; attempt++ {
		since := time.Now()
		err := c.use(os.Args[1], input)
		if c.finished {
			os.Exit(c.exitCode)
		}
		fmt.Fprintln(os.Stderr, "the connection has ended:", err)
		if time.Since(since) > backoffCap {
			attempt = 0
		}
		bound := backoffCap
		if attempt < 7 {
			bound = 100 * time.Millisecond << attempt
		}
		time.Sleep(time.Duration(c.after*1e9) + time.Duration(rand.Int63n(int64(bound))))
	}
}

// lines returns the lines of a stream. A bufio.Scanner would end at a line of 64 KiB.
func lines(stream io.Reader) <-chan string {
	found := make(chan string)
	go func() {
		defer close(found)
		for reader := bufio.NewReader(stream); ; {
			line, err := reader.ReadString('\n')
			if line != "" {
				found <- strings.TrimSuffix(line, "\n")
			}
			if err != nil {
				return
			}
		}
	}()
	return found
}

// use connects, and serves the connection until it ends.
func (c *client) use(address string, input <-chan string) error {
	c.inRoom, c.holding, c.after = false, false, 0
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	frames := lines(conn)
	c.out = make(chan []byte, maxInFlight+2) // so that nothing below waits for the server to read
	defer func() {
		conn.Close()
		close(c.out)
		for range frames { // let the goroutine end
		}
	}()
	go func() {
		for data := range c.out {
			conn.Write(data) // an error also ends the reader
		}
	}()
	handshake := map[string]any{"name": c.name, "room": c.room, "protocol": "json", "echo": false}
	if c.session != "" {
		handshake["resume"] = map[string]any{"session": c.session, "epoch": c.epoch, "seq": c.seq, "ts": c.ts}
	}
	c.out <- encode(handshake)
	retry := time.NewTicker(time.Second)
	defer retry.Stop()
	for {
		typed := input
		if c.inputEnded || len(c.pending) > maxInFlight {
			typed = nil // read nothing
		}
		select {
		case line, more := <-frames:
			if !more {
				return io.EOF
			}
			if err := c.receive([]byte(line)); err != nil {
				return err // connect again, and resume behind the last good frame
			}
		case text, more := <-typed:
			c.inputEnded = !more
			if text != "" {
				c.typed++
				id := fmt.Sprintf("%x-%d", rand.Int63(), c.typed)
				c.pending = append(c.pending, &message{id: id, text: text, number: c.typed})
			}
		case <-retry.C:
			c.holding = false
		}
		c.flush()
	}
}

// receive handles a frame from the server.
func (c *client) receive(line []byte) error {
	var f frame
	if err := json.Unmarshal(line, &f); err != nil && (f.Type == "" || strings.Contains(known, f.Type)) {
		return err // in a frame of an unknown type, a field may have another type than here
	}
	switch f.Type {
	case "welcome":
		c.enter(f)
	case "message", "deleted":
		if err := c.advance(f); err != nil || f.Text == "" { // without a text, the message was deleted
			return err
		}
		for _, line := range strings.Split(f.Text, "\n") {
			fmt.Println(f.Name + ":" + line)
		}
	case "ack":
		c.remove(f.ID)
		if f.Seq != nil && !f.Duplicate {
			return c.advance(f)
		}
	case "renamed":
		if f.Name == c.name {
			c.name = f.To
		}
	case "notice":
		c.holding = c.holding && f.Code != "available"
	case "error":
		if !c.inRoom {
			c.disconnected(f, f.After > 0 || c.session != "" && strings.Contains(temporary, f.Code))
		}
		for _, m := range c.pending {
			if m.id == f.ID && f.Code == "unavailable" {
				m.inFlight, c.holding = false, true
			} else if m.id == f.ID {
				c.giveUp(m, f.Code+": "+f.Detail)
			}
		}
	case "bye":
		c.disconnected(f, f.Reconnect)
	}
	return nil
}

// enter handles a welcome: the place in the room, and the messages that were in flight on the last connection.
func (c *client) enter(f frame) {
	sessionLost := c.session != f.Session
	c.name, c.room, c.inRoom = f.Name, f.Room, true // the server's spelling
	c.limits = map[string]float64{"frame_bytes": 65536, "remember": 300, "remember_ids": 1024}
	for name, limit := range f.Limits {
		c.limits[name] = limit
	}
	if f.Recovered == nil || !*f.Recovered {
		c.session, c.epoch, c.seq, c.ts = f.Session, f.Epoch, *f.Seq, f.TS
	}
	if f.Recovered != nil && !*f.Recovered {
		fmt.Fprintln(os.Stderr, "messages may be missing:", f.Reason)
	}
	remembered := c.limits["remember"] - math.Min(10, c.limits["remember"]/2)
	for _, m := range c.pending {
		m.inFlight = false
		if !m.since.IsZero() && (sessionLost || time.Since(m.since).Seconds() > remembered) {
			c.giveUp(m, "it is unknown if it was kept")
		}
	}
}

func (c *client) advance(f frame) error {
	if f.Seq == nil || *f.Seq != c.seq+1 {
		return fmt.Errorf("a message is missing after %d", c.seq)
	}
	c.seq, c.ts = *f.Seq, f.TS
	return nil
}

func (c *client) disconnected(f frame, again bool) {
	c.after = f.After
	if c.finished {
		return // it answers our own goodbye
	}
	fmt.Fprintln(os.Stderr, f.Code+": "+f.Detail)
	if !again {
		c.finished, c.exitCode = true, 1
	}
}

func (c *client) giveUp(m *message, why string) {
	fmt.Fprintf(os.Stderr, "%q: %s\n", m.text, why)
	c.remove(m.id)
	c.exitCode = 1
}

func (c *client) remove(id string) {
	var left []*message
	for _, m := range c.pending {
		if m.id != id {
			left = append(left, m)
		}
	}
	c.pending = left
}

// flush writes what may be written: fewer new ids than the server remembers, counted from the oldest unanswered message.
func (c *client) flush() {
	if !c.inRoom || c.finished {
		return
	}
	window := math.Min(maxInFlight, c.limits["remember_ids"]/2)
	for _, m := range c.pending {
		if c.holding || float64(m.number-c.pending[0].number) >= window {
			break
		}
		if m.inFlight {
			continue
		}
		data := encode(map[string]any{"type": "message", "id": m.id, "text": m.text})
		if float64(len(data)) > c.limits["frame_bytes"] {
			c.giveUp(m, "it is too long")
			continue
		}
		if m.inFlight = true; m.since.IsZero() {
			m.since = time.Now()
		}
		c.out <- data
	}
	if c.inputEnded && len(c.pending) == 0 {
		c.finished = true
		c.out <- []byte(`{"type":"bye"}` + "\n")
	}
}

func encode(fields map[string]any) []byte {
	data, _ := json.Marshal(fields) // strings and numbers only
	return append(data, '\n')
}
