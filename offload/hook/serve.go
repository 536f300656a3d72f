package hook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// DefaultDeadline is how long a Decider may think if nothing else is said.
const DefaultDeadline = 200 * time.Millisecond

// Options say how a hook decides and how it builds.
type Options struct {
	// Decider is asked first. Nil leaves all to Fallback.
	Decider Decider
	// Fallback is asked where Decider gives no answer in time. Nil declines.
	Fallback Decider
	// Deadline is how long each of them may think. 0 means DefaultDeadline.
	Deadline time.Duration
	// Stock is how Nix's own build-remote is started. Its zero value finds it by itself.
	Stock Stock
}

// Serve answers what Nix says on in, by lines on reply: files 0 and 2 of a build hook. It returns when Nix is done with
// the hook, with the status that the hook must exit with. Each reply is one write.
//
// An error is for people: Nix was replied to all the same, unless reply could not be written.
func Serve(ctx context.Context, in io.Reader, reply io.Writer, opts *Options) (status int, err error) {
	if opts == nil {
		opts = &Options{}
	}
	s := &session{in: NewReader(in), reply: reply, opts: *opts, parent: os.Getppid()}
	if s.opts.Deadline == 0 {
		s.opts.Deadline = DefaultDeadline
	}
	defer func() {
		if cause := recover(); cause != nil {
			status, err = 1, s.refuse(fmt.Errorf("hook: internal error: %v", cause))
		}
	}()
	if s.settings, err = s.in.Settings(); err != nil {
		return 1, s.refuse(err)
	}
	for {
		s.replied = false
		try, err := s.in.Next()
		if errors.Is(err, io.EOF) {
			return 0, nil
		}
		if err != nil {
			return 1, s.refuse(err)
		}
		accepted, status, err := s.answer(ctx, try)
		if accepted || err != nil {
			return status, err
		}
	}
}

// Refuse is for a hook that can do nothing else, as it was called wrongly: it shows why to the user, has Nix build here,
// and returns when Nix is done with the hook.
func Refuse(in io.Reader, reply io.Writer, why error) error {
	s := &session{in: NewReader(in), reply: reply}
	return s.refuse(why)
}

// session is one run of the protocol.
type session struct {
	in       *Reader
	reply    io.Writer
	opts     Options
	settings Settings
	parent   int    // Nix's process
	replied  bool   // to what Nix says now
	nobody   string // builders in which build-remote has found no machine, so that it need not look again
}

// answer replies to a try. If the build was accepted it is over, and status is the hook's.
func (s *session) answer(ctx context.Context, try *Try) (accepted bool, status int, err error) {
	answer := s.decide(ctx, try)
	switch answer.Verdict {
	case Accept:
		return s.delegate(try, answer, answer.Line)
	case Plain:
		builders, _ := s.settings.Lookup("builders")
		if strings.TrimSpace(builders) != "" && builders != s.nobody {
			return s.delegate(try, answer, builders)
		}
		answer.Verdict = Decline
	}
	return false, 1, s.say(answer.Messages, answer.Verdict, "")
}

// decide asks the deciders in turn, and declines if neither knows.
func (s *session) decide(ctx context.Context, try *Try) *Answer {
	var notes []Message
	for _, decider := range []Decider{s.opts.Decider, s.opts.Fallback} {
		if decider == nil {
			continue
		}
		answer, err := ask(ctx, s.opts.Deadline, decider, s.settings, try)
		if err == nil {
			answer.Messages = append(notes, answer.Messages...)
			return answer
		}
		notes = append(notes, note(levelTalkative, err))
	}
	return &Answer{Verdict: Decline, Messages: notes}
}

// levelTalkative is shown with `nix -v`.
const levelTalkative = 4

// ask is one decider's answer, checked. It leaves behind a decider that does not heed its context.
func ask(ctx context.Context, deadline time.Duration, decider Decider, settings Settings, try *Try) (*Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	type outcome struct {
		answer *Answer
		err    error
	}
	decided := make(chan outcome, 1)
	go func() {
		var o outcome
		defer func() {
			if cause := recover(); cause != nil {
				o = outcome{nil, fmt.Errorf("hook: internal error: %v", cause)}
			}
			decided <- o
		}()
		o.answer, o.err = decider.Decide(ctx, settings, try)
	}()
	select {
	case o := <-decided:
		if o.err != nil {
			return nil, o.err
		}
		if err := o.answer.check(); err != nil {
			return nil, err
		}
		answer := *o.answer
		return &answer, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("hook: no answer within %v", deadline)
	}
}

// say writes messages and a reply at once. name is the second line of a reply that accepts.
func (s *session) say(messages []Message, verdict Verdict, name string) error {
	text := appendMessages(nil, messages)
	text = append(append(append(text, "# "...), verdict...), '\n')
	if verdict == Accept {
		text = append(append(text, name...), '\n')
	}
	s.replied = true
	_, err := s.reply.Write(text)
	return err
}

// refuse gives up on what Nix says: the one reply that needs no further one, and nothing that blocks Nix as it goes on.
// It returns why.
func (s *session) refuse(why error) error {
	if !s.replied {
		message := note(0, fmt.Errorf("%v; building without it", why))
		if err := s.say([]Message{message}, DeclinePermanently, ""); err != nil {
			return err
		}
	}
	_, _ = io.Copy(io.Discard, s.in.Rest())
	return why
}
