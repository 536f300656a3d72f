package hook_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/offload/hook"
)

var (
	settings = hook.Settings{{"max-jobs", "4"}, {"builders", "ssh://a"}, {"from-the-future", "x"}}
	try      = &hook.Try{Willing: true, System: "x86_64-linux", Drv: "/nix/store/x.drv", Features: []string{"kvm"}}
	build    = &hook.Build{Inputs: []string{"/nix/store/a", "/nix/store/b"}, Outputs: []string{"out", "dev"}}
)

const line = "ssh-ng://localhost?remote-program=/run/1 x86_64-linux - 1 1 kvm -"

// questions is what Nix says to a hook that accepts none of n tries.
func questions(n int) []byte {
	b := hook.AppendSettings(nil, settings)
	for range n {
		b = hook.AppendTry(b, try)
	}
	return b
}

// accepted is what Nix says to a hook that accepts.
func accepted() []byte { return hook.AppendBuild(questions(1), build) }

// writes counts writes.
type writes struct {
	bytes.Buffer
	n int
}

func (w *writes) Write(p []byte) (int, error) {
	w.n++
	return w.Buffer.Write(p)
}

type decider func(context.Context) (*hook.Answer, error)

func (f decider) Decide(ctx context.Context, _ hook.Settings, _ *hook.Try) (*hook.Answer, error) {
	return f(ctx)
}

// stock is the build-remote that behaves so.
func stock(t *testing.T, behaviour string) hook.Stock {
	t.Helper()
	t.Setenv("HOOK_TEST_REMOTE", behaviour)
	program, err := os.Executable()
	require.NoError(t, err)
	return hook.Stock{Program: program, Verbosity: "5"}
}

func TestEachTryHasItsReply(t *testing.T) {
	for _, verdict := range []hook.Verdict{hook.Decline, hook.DeclinePermanently, hook.Postpone} {
		t.Run(string(verdict), func(t *testing.T) {
			var reply writes
			status, err := hook.Serve(t.Context(), bytes.NewReader(questions(3)), &reply, &hook.Options{
				Decider: hook.Fixed{Verdict: verdict, Messages: []hook.Message{{Level: 1, Text: "a \"b\"\nc"}}},
			})
			require.NoError(t, err)
			require.Zero(t, status)
			one := `@nix {"action":"msg","level":1,"msg":"a \"b\"\nc"}` + "\n# " + string(verdict) + "\n"
			require.Equal(t, strings.Repeat(one, 3), reply.String())
			require.Equal(t, 3, reply.n, "one write each")
		})
	}
}

func TestTroubleIsTheFallbacksOrDeclined(t *testing.T) {
	troubles := map[string]decider{
		"error":  func(context.Context) (*hook.Answer, error) { return nil, errors.New("no coordinator") },
		"panic":  func(context.Context) (*hook.Answer, error) { panic("at the coordinator") },
		"nil":    func(context.Context) (*hook.Answer, error) { return nil, nil },
		"late":   func(ctx context.Context) (*hook.Answer, error) { <-ctx.Done(); return nil, ctx.Err() },
		"hangs":  func(context.Context) (*hook.Answer, error) { select {} },
		"what":   answering(hook.Answer{Verdict: "refuse"}),
		"nobody": answering(hook.Answer{Verdict: hook.Accept}),
		"two":    answering(hook.Answer{Verdict: hook.Accept, Line: "ssh://a\nssh://b"}),
		"list":   answering(hook.Answer{Verdict: hook.Accept, Line: "ssh://a;ssh://b"}),
		"file":   answering(hook.Answer{Verdict: hook.Accept, Line: " @/etc/nix/machines"}),
		"long":   answering(hook.Answer{Verdict: hook.Accept, Line: strings.Repeat("a", 5000)}),
		"name":   answering(hook.Answer{Verdict: hook.Accept, Line: "ssh://a", Name: "a\n# accept"}),
		"talk":   answering(hook.Answer{Verdict: hook.Decline, Messages: make([]hook.Message, 1000)}),
	}
	for name, trouble := range troubles {
		t.Run(name, func(t *testing.T) {
			var reply bytes.Buffer
			opts := &hook.Options{Decider: trouble, Deadline: 10 * time.Millisecond}
			status, err := hook.Serve(t.Context(), bytes.NewReader(questions(1)), &reply, opts)
			require.NoError(t, err)
			require.Zero(t, status)
			require.True(t, strings.HasSuffix(reply.String(), "\n# decline\n"), "%s", &reply)

			reply.Reset()
			opts.Fallback = hook.Fixed{Verdict: hook.Postpone}
			_, err = hook.Serve(t.Context(), bytes.NewReader(questions(1)), &reply, opts)
			require.NoError(t, err)
			require.True(t, strings.HasSuffix(reply.String(), "\n# postpone\n"), "%s", &reply)
		})
	}
}

func answering(answer hook.Answer) decider {
	return func(context.Context) (*hook.Answer, error) { return &answer, nil }
}

func TestWhatCannotBeReadIsDeclinedForGood(t *testing.T) {
	huge := hook.AppendSettings(nil, nil)[:0]
	huge = append(huge, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0) // a setting's name of 1 GiB
	for name, text := range map[string][]byte{
		"nothing":          {},
		"1 GiB":            huge,
		"1 GiB and more":   append(bytes.Clone(huge), make([]byte, 1<<20)...),
		"text":             []byte("GET / HTTP/1.1\r\n\r\n"),
		"cut in settings":  questions(1)[:100],
		"cut in a try":     questions(1)[:len(questions(1))-5],
		"another question": append(questions(0), 5, 0, 0, 0, 0, 0, 0, 0, 'o', 't', 'h', 'e', 'r', 0, 0, 0),
		"padding":          append(questions(0), 3, 0, 0, 0, 0, 0, 0, 0, 't', 'r', 'y', 0, 0, 0, 0, 1),
	} {
		t.Run(name, func(t *testing.T) {
			var reply bytes.Buffer
			in := bytes.NewReader(text)
			status, err := hook.Serve(t.Context(), in, &reply, &hook.Options{Decider: hook.Fixed{Verdict: hook.Decline}})
			require.Error(t, err)
			require.NotZero(t, status)
			require.True(t, strings.HasSuffix(reply.String(), "\n# decline-permanently\n"), "%s", &reply)
			require.Zero(t, in.Len(), "Nix must not wait for a reader")
		})
	}
}

func TestRefusalIsAReply(t *testing.T) {
	var reply bytes.Buffer
	in := bytes.NewReader(questions(2))
	require.Error(t, hook.Refuse(in, &reply, errors.New("no flag --x")))
	require.Equal(t, `@nix {"action":"msg","level":0,"msg":"build hook: no flag --x; building without it"}`+
		"\n# decline-permanently\n", reply.String())
	require.Zero(t, in.Len())
}

func TestBuildRemoteIsToldOfOneMachine(t *testing.T) {
	var reply bytes.Buffer
	status, err := hook.Serve(t.Context(), iotest.OneByteReader(bytes.NewReader(accepted())), &reply, &hook.Options{
		Decider: hook.Fixed{Verdict: hook.Accept, Line: line, Name: "big"},
		Stock:   stock(t, "accept"),
	})
	require.NoError(t, err)
	require.Zero(t, status)
	require.Equal(t, fmt.Sprintf("connecting\n# accept\nbig\nbuilders %q, try /nix/store/x.drv, 2 inputs, "+
		"outputs [out dev], args [\"build-remote\" \"5\"]\n", line), reply.String())
}

func TestBuildRemotesStatusIsOurs(t *testing.T) {
	status, err := hook.Serve(t.Context(), bytes.NewReader(accepted()), io.Discard, &hook.Options{
		Decider: hook.Fixed{Verdict: hook.Accept, Line: line}, Stock: stock(t, "fail"),
	})
	require.NoError(t, err)
	require.Equal(t, 100, status)
}

func TestPlainKeepsTheMachinesAndTheirNames(t *testing.T) {
	var reply bytes.Buffer
	_, err := hook.Serve(t.Context(), bytes.NewReader(accepted()), &reply, &hook.Options{
		Fallback: hook.Fixed{Verdict: hook.Plain}, Stock: stock(t, "accept"),
	})
	require.NoError(t, err)
	require.Contains(t, reply.String(), "# accept\nstock name\nbuilders \"ssh://a\"")
}

func TestWhatBuildRemoteRepliesIsTheReply(t *testing.T) {
	for behaviour, want := range map[string]string{
		"decline":             "# decline\n",
		"postpone":            "# postpone\n",
		"decline-permanently": "# decline\n",
		"crash":               "# decline\n",
		"hang":                "# decline\n",
		"endless line":        "# decline\n",
		"what":                "# decline\n",
	} {
		t.Run(behaviour, func(t *testing.T) {
			var reply bytes.Buffer
			remote := stock(t, behaviour)
			if behaviour == "hang" {
				remote.Patience = 50 * time.Millisecond
			}
			status, err := hook.Serve(t.Context(), bytes.NewReader(questions(2)), &reply, &hook.Options{
				Decider: hook.Fixed{Verdict: hook.Accept, Line: line, Name: "big"}, Stock: remote,
			})
			require.NoError(t, err)
			require.Zero(t, status)
			require.Equal(t, 2, strings.Count(reply.String(), want), "%s", &reply)
			require.Equal(t, 2, strings.Count(reply.String(), "# "), "%s", &reply)
		})
	}
}

func TestNoBuildRemoteIsDeclined(t *testing.T) {
	var reply bytes.Buffer
	_, err := hook.Serve(t.Context(), bytes.NewReader(questions(1)), &reply, &hook.Options{
		Decider: hook.Fixed{Verdict: hook.Accept, Line: line}, Stock: hook.Stock{Program: "/no/such/nix"},
	})
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(reply.String(), "\n# decline\n"), "%s", &reply)
}

func TestBuildRemoteThatDiesHasFailed(t *testing.T) {
	var reply bytes.Buffer
	status, err := hook.Serve(t.Context(), bytes.NewReader(accepted()), &reply, &hook.Options{
		Decider: hook.Fixed{Verdict: hook.Accept, Line: line}, Stock: stock(t, "crash later"),
	})
	require.ErrorContains(t, err, "killed")
	require.Equal(t, 1, status)
	require.Contains(t, reply.String(), "# accept\nstock name\n")
	require.Contains(t, reply.String(), `"msg":"build hook: build-remote: signal: killed"`)
}

// TestLongInputsPassThrough has more inputs than a pipe or a buffer holds.
func TestLongInputsPassThrough(t *testing.T) {
	long := &hook.Build{Outputs: []string{"out"}}
	for i := range 20_000 {
		long.Inputs = append(long.Inputs, fmt.Sprintf("/nix/store/%032d-input", i))
	}
	var reply bytes.Buffer
	_, err := hook.Serve(t.Context(), bytes.NewReader(hook.AppendBuild(questions(1), long)), &reply, &hook.Options{
		Decider: hook.Fixed{Verdict: hook.Accept, Line: line}, Stock: stock(t, "accept"),
	})
	require.NoError(t, err)
	require.Contains(t, reply.String(), "20000 inputs")
}
