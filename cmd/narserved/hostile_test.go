package main_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// closed stands for a connection that the server closes without an answer.
const closed = 0

// hostileRequests are raw requests, PATH, HASH and NAR replaced, with the status that each must get.
var hostileRequests = []struct {
	name    string
	request string
	status  int
}{
	{"path traversal", "GET /../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"encoded traversal", "GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"traversal below serve", "GET /serve/HASH/../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"encoded traversal below serve", "GET /serve/HASH/%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"traversal below log", "GET /log/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"traversal below nar", "GET /nar/..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"hash of 31", "GET /0000000000000000000000000000000.narinfo HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"hash of 33", "GET /000000000000000000000000000000000.narinfo HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"hash with e", "GET /e0000000000000000000000000000000.narinfo HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"hash with o", "GET /o0000000000000000000000000000000.narinfo HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"hash with t", "GET /t0000000000000000000000000000000.narinfo HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"hash with u", "GET /u0000000000000000000000000000000.narinfo HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"hash with NUL", "GET /%000000000000000000000000000000000.narinfo HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"absent hash", "GET /00000000000000000000000000000000.narinfo HTTP/1.1\r\nHost: x\r\n\r\n", 404},
	{"wrong NAR hash", "GET /nar/HASH-" + strings.Repeat("0", 52) + ".nar HTTP/1.1\r\nHost: x\r\n\r\n", 404},
	{"range behind the end", "GET /NAR HTTP/1.1\r\nHost: x\r\nRange: bytes=99999999-\r\n\r\n", 416},
	{"range of absurd numbers", "GET /NAR HTTP/1.1\r\nHost: x\r\nRange: bytes=99999999999999999999999-\r\n\r\n", 416},
	{"range that is none", "GET /NAR HTTP/1.1\r\nHost: x\r\nRange: lines=1-2\r\n\r\n", 200},
	{"range backwards", "GET /NAR HTTP/1.1\r\nHost: x\r\nRange: bytes=9-1\r\n\r\n", 200},
	{"many ranges", "GET /NAR HTTP/1.1\r\nHost: x\r\nRange: bytes=" + strings.Repeat("0-0,", 1000) + "0-0\r\n\r\n", 200},
	{"a method that changes", "DELETE /HASH.narinfo HTTP/1.1\r\nHost: x\r\n\r\n", 405},
	{"options of everything", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 405},
	{"a body that is not wanted", "POST /NAR HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 405},
	{"header flood", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: "+strings.Repeat("a", 999)+"\r\n", 200) + "\r\n", 431},
	{"one giant header", "GET / HTTP/1.1\r\nHost: x\r\nX-A: " + strings.Repeat("a", 200_000) + "\r\n\r\n", 431},
	{"giant URL", "GET /" + strings.Repeat("a", 200_000) + " HTTP/1.1\r\nHost: x\r\n\r\n", 431},
	{"no HTTP", "hello\r\n\r\n", 400},
	{"no host", "GET / HTTP/1.1\r\n\r\n", 400},
	{"two hosts", "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400},
	{"smuggling", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200},
}

func TestHostileRequestsGetTheirStatusAndLeaveNothingBehind(t *testing.T) {
	p := newPrivateStore(t)
	path := p.Build(t, "target", "mkdir $out; head -c 300000 /dev/zero > $out/data")
	s := startServer(t, "--store", p.URI())
	fill := strings.NewReplacer("HASH", hashPart(path), "NAR", s.narinfoFields(t, path)["URL"]).Replace
	address := strings.TrimPrefix(s.URL, "http://")
	s.warmUp(t, path)
	before := s.resources(t)
	for _, h := range hostileRequests {
		t.Run(h.name, func(t *testing.T) {
			require.Equal(t, h.status, rawStatus(t, address, fill(h.request)))
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					for range 1000 / 8 {
						rawStatus(t, address, fill(h.request))
					}
				})
			}
			all.Wait()
		})
	}
	s.requireBaseline(t, before)
}

// TestClientsThatLeaveOrStallLeaveNothingBehind opens connections that send half a request, or read a part of a NAR.
func TestClientsThatLeaveOrStallLeaveNothingBehind(t *testing.T) {
	p := newPrivateStore(t)
	path := p.Build(t, "target", "mkdir $out; head -c 30000000 /dev/zero > $out/data")
	s := startServer(t, "--store", p.URI())
	address := strings.TrimPrefix(s.URL, "http://")
	url := s.narinfoFields(t, path)["URL"]
	s.warmUp(t, path)
	before := s.resources(t)
	var open []net.Conn
	for i := range 1000 {
		conn, err := net.Dial("tcp", address)
		require.NoError(t, err)
		open = append(open, conn)
		if i%2 == 0 {
			_, err = conn.Write([]byte("GET / HT"))
		} else {
			_, err = fmt.Fprintf(conn, "GET /%s HTTP/1.1\r\nHost: x\r\n\r\n", url)
		}
		require.NoError(t, err)
	}
	require.Equal(t, http.StatusOK, get(t, s.URL+"/healthz").status, "others are served meanwhile")
	for _, conn := range open {
		conn.Close()
	}
	s.requireBaseline(t, before)
}

func TestSlowHeadersAreCutOff(t *testing.T) {
	p := newPrivateStore(t)
	p.Build(t, "target", "echo > $out")
	s := startServer(t, "--store", p.URI())
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n"))
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(30*time.Second)))
	answer, err := io.ReadAll(conn)
	require.NoError(t, err, "the server closes a connection whose headers never end")
	if len(answer) > 0 {
		require.Contains(t, string(answer), " 408 ")
	}
}

// rawStatus sends a request as it is and returns the answer's status, or closed.
func rawStatus(t *testing.T, address, request string) int {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Errorf("dial: %v", err)
		return closed
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	go func() { _, _ = io.WriteString(conn, request) }() // the server may answer before it has read it all
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return closed
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// resources are what a server holds while nobody asks it anything.
type resources struct{ goroutines, descriptors int }

// warmUp lets a server open as many connections to its database as it ever will.
func (s *server) warmUp(t *testing.T, path string) {
	t.Helper()
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 50 {
				s.narinfoURL(path)
			}
		})
	}
	all.Wait()
}

func (s *server) resources(t *testing.T) resources {
	t.Helper()
	httpClient.CloseIdleConnections()
	var status struct{ Goroutines int }
	a := get(t, s.Admin+"/status")
	require.Equal(t, http.StatusOK, a.status, "%v", a.err)
	require.NoError(t, json.Unmarshal(a.body, &status), "%s", a.body)
	require.Positive(t, status.Goroutines)
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
	require.NoError(t, err)
	return resources{status.Goroutines, len(fds)}
}

func (s *server) requireBaseline(t *testing.T, before resources) {
	t.Helper()
	var now resources
	ok := func() bool {
		now = s.resources(t)
		// A few connections to the database may be idle, more or fewer than before: they are bounded.
		return now.goroutines <= before.goroutines+2 && now.descriptors <= before.descriptors+8
	}
	for end := time.Now().Add(5 * time.Second); !ok() && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
	require.True(t, ok(), "five seconds later the server holds %+v, and %+v before", now, before)
}
