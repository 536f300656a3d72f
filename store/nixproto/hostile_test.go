package nixproto_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/nixproto"
)

// deaf is a daemon that says what it has to say, whatever it is asked.
type deaf struct{ io.Reader }

func deafConn(says []byte) io.ReadWriteCloser { return deaf{bytes.NewReader(says)} }

func (deaf) Write(p []byte) (int, error) { return len(p), nil }
func (deaf) Close() error                { return nil }

// wire makes a message of numbers and strings.
func wire(values ...any) []byte {
	var b []byte
	for _, v := range values {
		switch v := v.(type) {
		case uint64:
			b = binary.LittleEndian.AppendUint64(b, v)
		case int:
			b = binary.LittleEndian.AppendUint64(b, uint64(v))
		case string:
			b = binary.LittleEndian.AppendUint64(b, uint64(len(v)))
			b = append(append(b, v...), make([]byte, -len(v)&7)...)
		}
	}
	return b
}

const (
	magic  = 0x6478696f
	last   = 0x616c7473
	failed = 0x63787470
	line   = 0x6f6c6d67
	huge   = uint64(1 << 62)
)

// greeting is how a daemon of 1.38 begins.
var greeting = wire(magic, 0x126, 0, "2.34.8", 1, last)

func TestHostileGreeting(t *testing.T) {
	tests := []struct {
		name  string
		says  []byte
		is    error
		words string
	}{
		{"nothing", nil, io.ErrUnexpectedEOF, ""},
		{"another protocol", []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), nixproto.ErrProtocol, "magic number"},
		{"the client's magic", wire(0x6e697863, 0x126), nixproto.ErrProtocol, "magic number"},
		{"too old", wire(magic, 0x11f), nixproto.ErrVersion, "speaks 1.31, need 1.32"},
		{"another major", wire(magic, 0x226), nixproto.ErrVersion, "speaks 2.38"},
		{"no version", wire(magic, huge), nixproto.ErrProtocol, "is no version"},
		{"giant feature list", wire(magic, 0x126, huge), nixproto.ErrProtocol, "list of"},
		{"giant feature", wire(magic, 0x126, 1, huge), nixproto.ErrProtocol, "string of"},
		{"giant Nix version", wire(magic, 0x126, 0, huge), nixproto.ErrProtocol, "string of"},
		{"unknown trust", wire(magic, 0x126, 0, "2.34.8", 3), nixproto.ErrProtocol, "trust 3"},
		{"refusal", wire(magic, 0x126, 0, "2.34.8", 0, failed, "Error", 0, "Error", "go\x1b[31m away", 0, 0), nil,
			`daemon: "go\x1b[31m away"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := nixproto.NewClient(t.Context(), deafConn(test.says), nil)
			require.Error(t, err)
			require.ErrorContains(t, err, test.words)
			if test.is != nil {
				require.ErrorIs(t, err, test.is)
			}
		})
	}
}

func TestNewerMinorIsTaken(t *testing.T) {
	says := wire(magic, 0x12a, 1, "realisation-with-path-not-hash", "3.0", 2, last)
	c, err := nixproto.NewClient(t.Context(), deafConn(says), nil)
	require.NoError(t, err)
	require.Equal(t, "1.42", c.Peer().Offered.String())
	require.Equal(t, "1.38", c.Peer().Version.String())
	require.Equal(t, nixproto.NotTrusted, c.Peer().Trust)
	_, err = c.Realisation(t.Context(), "sha256:00!out")
	require.ErrorIs(t, err, errors.ErrUnsupported)
}

func TestHostileReplies(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	tests := []struct {
		name  string
		says  []byte
		words string
	}{
		{"unknown message", wire(0x1234), "message 0x1234"},
		{"data wanted", wire(0x64617461, 5), "asks for data"},
		{"data sent", wire(0x64617416, "x"), "sends data"},
		{"giant line", wire(line, huge), "string of"},
		{"padding not zero", append(wire(line, 1), "a\x00\x00\x00\x00\x00\x00b"...), "padding"},
		{"giant field list", wire(0x52534c54, 1, 2, huge), "list of"},
		{"unknown field", wire(0x52534c54, 1, 2, 1, 9), "field type 9"},
		{"giant trace", wire(failed, "Error", 0, "", "m", 0, huge), "list of"},
		{"error with a position", wire(failed, "Error", 0, "", "m", 1), "position"},
		{"no boolean", wire(last, 2), "2 is no boolean"},
		{"deriver is no path", wire(last, 1, "/etc/passwd"), "/etc/passwd"},
		{"hash in base 32", wire(last, 1, "", "0z", 0, 0), "not base 16"},
		{"short hash", wire(last, 1, "", "abcd", 0, 0), "NAR hash"},
		{"giant references", wire(last, 1, "", hash, huge), "list of"},
		{"references beyond the limit", wire(last, 1, "", hash, 1<<17), "list of"},
		{"reference is no path", wire(last, 1, "", hash, 1, "../x"), "../x"},
		{"negative size", wire(last, 1, "", hash, 0, 0, -1), "too large"},
		{"no size", wire(last, 1, "", hash, 0, 0, 0, 0, 0, ""), "NAR size 0"},
		{"no content address", wire(last, 1, "", hash, 0, 0, 120, 0, 0, "x"), "content address"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			says := slices.Concat(greeting, test.says)
			c, err := nixproto.NewClient(t.Context(), deafConn(says), &nixproto.Options{MaxReply: 1 << 20})
			require.NoError(t, err)
			_, err = c.PathInfo(t.Context(), absent)
			require.ErrorIs(t, err, nixproto.ErrProtocol)
			require.ErrorContains(t, err, test.words)
			_, err = c.PathInfo(t.Context(), absent)
			require.ErrorIs(t, err, nixproto.ErrClosed)
		})
	}
}

func TestAnswerAboutAnotherPath(t *testing.T) {
	says := slices.Concat(greeting, wire(last, "/nix/store/11111111111111111111111111111111-x"))
	c, err := nixproto.NewClient(t.Context(), deafConn(says), nil)
	require.NoError(t, err)
	_, err = c.PathFromHashPart(t.Context(), absentHash)
	require.ErrorIs(t, err, nixproto.ErrProtocol)
}

func TestPathsAreSorted(t *testing.T) {
	a, b := "/nix/store/"+absentHash+"-a", "/nix/store/"+absentHash+"-b"
	c, err := nixproto.NewClient(t.Context(), deafConn(slices.Concat(greeting, wire(last, 2, b, a))), nil)
	require.NoError(t, err)
	paths, err := c.Referrers(t.Context(), absent)
	require.NoError(t, err)
	require.Equal(t, []narinfo.StorePath{narinfo.StorePath(a), narinfo.StorePath(b)}, paths)
}

func TestHostileNAR(t *testing.T) {
	open := wire("nix-archive-1", "(", "type")
	entry := wire("entry", "(", "name", "n", "node", "(", "type", "directory")
	tests := []struct {
		name string
		nar  []byte
	}{
		{"wrong magic", wire("nix-archive-2")},
		{"giant tag", wire(huge)},
		{"unknown type", slices.Concat(open, wire("socket"))},
		{"giant content", slices.Concat(open, wire("regular", "contents", -1))},
		{"executable twice", slices.Concat(open, wire("regular", "executable", "", "executable"))},
		{"long target", slices.Concat(open, wire("symlink", "target", 4096))},
		{"long name", slices.Concat(open, wire("directory", "entry", "(", "name", 256))},
		{"too deep", slices.Concat(open, wire("directory"), bytes.Repeat(entry, 65))},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			says := slices.Concat(greeting, wire(last, 1), wire(last), test.nar)
			c, err := nixproto.NewClient(t.Context(), deafConn(says), nil)
			require.NoError(t, err)
			_, err = readNAR(t.Context(), c, absent)
			require.ErrorIs(t, err, nixproto.ErrProtocol)
		})
	}
}

// A daemon that goes away in mid-sentence is always noticed.
func TestTruncatedSessions(t *testing.T) {
	for _, release := range realnix.Releases() {
		t.Run(release, func(t *testing.T) {
			s := loadSession(t, release, "queries")
			says := s.daemonBytes()
			for n := range says {
				_, err := converse(t.Context(), deafConn(says[:n]), s.Fixture, askQueries)
				require.ErrorIs(t, err, io.ErrUnexpectedEOF, "after %d bytes", n)
			}
			_, err := converse(t.Context(), deafConn(says), s.Fixture, askQueries)
			require.NoError(t, err)
		})
	}
}

func TestEvents(t *testing.T) {
	says := slices.Concat(greeting,
		wire(line, "hello\n"),
		wire(0x53545254, 7, 3, 105, "building", 2, 0, 42, 1, "x", 6),
		wire(0x52534c54, 7, 101, 1, 1, "log"),
		wire(0x53544f50, 7),
		wire(last, 1))
	var events []nixproto.Event
	c, err := nixproto.NewClient(t.Context(), deafConn(says), &nixproto.Options{
		OnEvent: func(e nixproto.Event) { events = append(events, e) },
	})
	require.NoError(t, err)
	valid, err := c.IsValidPath(t.Context(), absent)
	require.NoError(t, err)
	require.True(t, valid)
	text, ok := events[2].LogLine()
	require.True(t, ok)
	require.Equal(t, "log", text)
	_, ok = events[2].Phase()
	require.False(t, ok)
	require.Equal(t, []nixproto.Event{
		{Kind: nixproto.EventLog, Text: "hello\n"},
		{Kind: nixproto.EventStart, Activity: 7, Parent: 6, Level: 3, Type: 105, Text: "building",
			Fields: []nixproto.Field{{Number: 42}, {Text: "x", IsText: true}}},
		{Kind: nixproto.EventResult, Activity: 7, Type: 101, Fields: []nixproto.Field{{Text: "log", IsText: true}}},
		{Kind: nixproto.EventStop, Activity: 7},
	}, events)
}

func TestRemoteErrorWithTrace(t *testing.T) {
	says := slices.Concat(greeting, wire(failed, "Error", 1, "Error", "no", 0, 2, 0, "while a", 0, "while b"))
	c, err := nixproto.NewClient(t.Context(), deafConn(says), nil)
	require.NoError(t, err)
	_, err = c.AllValidPaths(t.Context())
	remote, ok := errors.AsType[*nixproto.RemoteError](err)
	require.True(t, ok, "%v", err)
	want := &nixproto.RemoteError{Type: "Error", Level: 1, Message: "no", Trace: []string{"while a", "while b"}}
	require.Equal(t, want, remote)
}

// FuzzClient lets a daemon say anything: a client ends with an answer or an error of a known kind.
func FuzzClient(f *testing.F) {
	files, err := os.ReadDir("testdata/sessions")
	require.NoError(f, err)
	var asked fixture
	for _, file := range files {
		release, name, _ := strings.Cut(strings.TrimSuffix(file.Name(), ".json"), "-")
		s := loadSession(f, release, name)
		asked = s.Fixture
		f.Add(s.daemonBytes())
	}
	f.Fuzz(func(t *testing.T, says []byte) {
		for name, run := range scripts {
			_, err := converse(context.Background(), deafConn(says), asked, run)
			requireKnown(t, err, name)
		}
	})
}

func requireKnown(t *testing.T, err error, of string) {
	t.Helper()
	_, remote := errors.AsType[*nixproto.RemoteError](err)
	known := err == nil || remote
	for _, is := range []error{nixproto.ErrProtocol, nixproto.ErrVersion, nixproto.ErrClosed, store.ErrNotFound,
		errors.ErrUnsupported, io.ErrUnexpectedEOF} {
		known = known || errors.Is(err, is)
	}
	require.True(t, known, "%s: %v", of, err)
}
