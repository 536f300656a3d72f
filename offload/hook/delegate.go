package hook

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"time"
)

// grace is how long what should be over at once may take.
const grace = time.Second

// delegate has build-remote answer a try and, if it accepts, build. builders are all the machines that it is told of.
func (s *session) delegate(try *Try, answer *Answer, builders string) (accepted bool, status int, err error) {
	// The kernel kills build-remote when the thread that has started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	child, err := s.start()
	if err != nil {
		return false, 1, s.decline(answer, fmt.Errorf("hook: build-remote: %v", err))
	}
	defer child.end()
	go child.feed(appendTry(appendSettings(nil, s.settings.With("builders", builders)), try))

	verdict, name, err := s.awaitReply(child, answer.Verdict == Accept)
	if err != nil {
		return false, 1, s.decline(answer, err)
	}
	switch verdict {
	case Accept:
		if answer.Name != "" {
			name = answer.Name
		}
		if err := s.say(answer.Messages, Accept, name); err != nil {
			return false, 1, err
		}
		status, err := s.relay(child)
		return true, status, err
	case DeclinePermanently:
		s.nobody = builders
		verdict = Decline
	}
	return false, 1, s.say(answer.Messages, verdict, "")
}

// decline declines for a trouble of ours.
func (s *session) decline(answer *Answer, why error) error {
	note := note(levelTalkative, why)
	return s.say(append(answer.Messages, note), Decline, "")
}

// awaitReply passes on what build-remote has to say before it replies.
func (s *session) awaitReply(child *remote, hurried bool) (verdict Verdict, name string, err error) {
	if hurried {
		patience := s.opts.Stock.patience()
		timer := time.AfterFunc(patience, child.kill)
		defer func() {
			if !timer.Stop() {
				err = fmt.Errorf("hook: build-remote has not reached the machine within %v", patience)
			}
		}()
	}
	for {
		line, err := child.line()
		if err != nil {
			return "", "", err
		}
		word, isReply := bytes.CutPrefix(line, []byte("# "))
		if !isReply {
			if _, err := s.reply.Write(append(line, '\n')); err != nil {
				return "", "", err
			}
			continue
		}
		switch verdict := Verdict(word); verdict {
		case Decline, DeclinePermanently, Postpone:
			return verdict, "", nil
		case Accept:
			name, err := child.line()
			return verdict, string(name), err
		}
		return "", "", fmt.Errorf("hook: build-remote replied %q", clip(string(word)))
	}
}

// relay copies between Nix and build-remote until that is done, and returns its status.
func (s *session) relay(child *remote) (int, error) {
	child.rest <- s.in.Rest()
	said := make(chan struct{})
	go func() {
		defer close(said)
		if _, err := io.Copy(s.reply, child.lines); err != nil {
			child.kill() // nobody listens any more
		}
	}()
	<-child.exited
	// What build-remote has left behind may hold its files; that must not hold up Nix.
	_ = child.out.SetReadDeadline(time.Now().Add(grace))
	<-said
	await(child.fed, grace)
	state := child.cmd.ProcessState
	if state.Exited() {
		return state.ExitCode(), nil
	}
	err := fmt.Errorf("hook: build-remote: %v", state)
	_, _ = s.reply.Write(appendMessage(nil, note(0, err)))
	return 1, err
}
