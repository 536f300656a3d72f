package hook_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/offload/hook"
)

// sessions are what real releases have said to a hook that declined one build and accepted the next: see TestRecord of
// nix-offload.
func sessions(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/sessions/*")
	require.NoError(t, err)
	require.Len(t, files, 3)
	all := make(map[string][]byte)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		all[filepath.Base(file)] = text
	}
	return all
}

func TestSessionsOfRealReleasesAreReadToTheLastByte(t *testing.T) {
	for release, text := range sessions(t) {
		t.Run(release, func(t *testing.T) {
			r := hook.NewReader(iotest.OneByteReader(bytes.NewReader(text)))
			settings, err := r.Settings()
			require.NoError(t, err)
			require.Greater(t, len(settings), 80)
			poll, ok := settings.Lookup("build-poll-interval")
			require.True(t, ok)
			require.Equal(t, "1", poll)

			first, err := r.Next()
			require.NoError(t, err)
			require.True(t, strings.HasSuffix(first.Drv, "-input.drv"))
			require.Empty(t, first.Features)
			second, err := r.Next()
			require.NoError(t, err)
			require.True(t, strings.HasSuffix(second.Drv, "-recorded.drv"))
			require.True(t, second.Willing)
			require.Equal(t, "x86_64-linux", second.System)
			require.Equal(t, []string{"big"}, second.Features)

			build, err := r.Build()
			require.NoError(t, err)
			require.Len(t, build.Inputs, 1)
			require.True(t, strings.HasSuffix(build.Inputs[0], "-input"))
			require.ElementsMatch(t, []string{"out", "dev"}, build.Outputs)
			_, err = r.Next()
			require.ErrorIs(t, err, io.EOF)

			again := hook.AppendTry(hook.AppendTry(hook.AppendSettings(nil, settings), first), second)
			require.Equal(t, text, hook.AppendBuild(again, build))
		})
	}
}

func TestReplayedSessionReachesBuildRemote(t *testing.T) {
	for release, text := range sessions(t) {
		t.Run(release, func(t *testing.T) {
			var reply bytes.Buffer
			asked := 0
			status, err := hook.Serve(t.Context(), bytes.NewReader(text), &reply, &hook.Options{
				Decider: deciderOfTry(func(try *hook.Try) *hook.Answer {
					asked++
					if asked == 1 {
						return &hook.Answer{Verdict: hook.Decline}
					}
					return &hook.Answer{Verdict: hook.Accept, Line: line, Name: "big"}
				}),
				Stock: stock(t, "accept"),
			})
			require.NoError(t, err)
			require.Zero(t, status)
			require.Contains(t, reply.String(), "# decline\nconnecting\n# accept\nbig\n")
			require.Contains(t, reply.String(), "-recorded.drv, 1 inputs, outputs [dev out]")
		})
	}
}

func TestGarbageAfterAReplyIsRepliedTo(t *testing.T) {
	var reply bytes.Buffer
	text := append(questions(1), "something else\n\n\n"...)
	_, err := hook.Serve(t.Context(), bytes.NewReader(text), &reply, &hook.Options{Decider: hook.Fixed{Verdict: hook.Decline}})
	require.ErrorIs(t, err, hook.ErrProtocol)
	require.Regexp(t, "^# decline\n@nix .*\n# decline-permanently\n$", reply.String())
}

// TestTruncationIsAlwaysAnswered cuts a session at every byte: no try goes without a reply, and no more is replied.
func TestTruncationIsAlwaysAnswered(t *testing.T) {
	text := sessions(t)["2.34"]
	r := hook.NewReader(bytes.NewReader(text))
	settings, err := r.Settings()
	require.NoError(t, err)
	start := len(hook.AppendSettings(nil, settings))
	try, err := r.Next()
	require.NoError(t, err)
	end := start + len(hook.AppendTry(nil, try))
	for cut := range end {
		var reply bytes.Buffer
		_, err := hook.Serve(t.Context(), bytes.NewReader(text[:cut]), &reply,
			&hook.Options{Decider: hook.Fixed{Verdict: hook.Postpone}})
		want := "# decline-permanently\n"
		if cut == start {
			require.NoError(t, err, "Nix may have no question")
			want = ""
		}
		require.True(t, strings.HasSuffix(reply.String(), want), "cut at %d: %s", cut, &reply)
		require.LessOrEqual(t, strings.Count(reply.String(), "# "), 1, "cut at %d", cut)
	}
}

type deciderOfTry func(*hook.Try) *hook.Answer

func (f deciderOfTry) Decide(_ context.Context, _ hook.Settings, try *hook.Try) (*hook.Answer, error) {
	return f(try), nil
}

func FuzzReader(f *testing.F) {
	for _, text := range sessions(f) {
		f.Add(text)
	}
	f.Add(questions(2))
	f.Add(accepted())
	f.Fuzz(func(t *testing.T, text []byte) {
		in := bytes.NewReader(text)
		r := hook.NewReader(in)
		settings, err := r.Settings()
		if err != nil {
			return
		}
		again := hook.AppendSettings(nil, settings)
		try, err := r.Next()
		if err == nil {
			build, err := r.Build()
			if err == nil && text[len(again)+16] <= 1 { // any other number is willing, too
				again = hook.AppendBuild(hook.AppendTry(again, try), build)
			}
		}
		if !bytes.HasPrefix(text, again) {
			t.Fatalf("read otherwise than written: %q", again)
		}
	})
}

func FuzzServe(f *testing.F) {
	for _, text := range sessions(f) {
		f.Add(text)
	}
	f.Add(questions(2))
	f.Fuzz(func(t *testing.T, text []byte) {
		var reply bytes.Buffer
		in := bytes.NewReader(text)
		status, err := hook.Serve(t.Context(), in, &reply, &hook.Options{Decider: hook.Fixed{Verdict: hook.Decline}})
		if (err != nil) != (status != 0) {
			t.Fatalf("status %d, error %v", status, err)
		}
		if (err != nil) != strings.HasSuffix(reply.String(), "# decline-permanently\n") {
			t.Fatalf("error %v, reply %s", err, &reply)
		}
		if in.Len() > 0 {
			t.Fatal("Nix waits for a reader")
		}
	})
}
