package hook

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// Decider says where a build goes. Any error, a panic and an answer that is malformed or late have [Serve] ask its
// fallback instead. Serve cancels ctx at its deadline and waits no longer.
type Decider interface {
	Decide(ctx context.Context, settings Settings, try *Try) (*Answer, error)
}

// Verdict is what becomes of a build.
type Verdict string

const (
	// Decline leaves the build to Nix, which may ask about the next one.
	Decline Verdict = "decline"
	// DeclinePermanently leaves this and all further builds of the same client to Nix.
	DeclinePermanently Verdict = "decline-permanently"
	// Postpone has Nix ask again later.
	Postpone Verdict = "postpone"
	// Accept has the build done by the machine of the answer's line.
	Accept Verdict = "accept"
	// Plain leaves the decision to Nix's own build-remote and the list of machines in the settings, however long it takes:
	// what happens is what would happen without us. A client without any machine is declined.
	Plain Verdict = "plain"
)

// Answer is a decision.
type Answer struct {
	Verdict Verdict `json:"verdict"`
	// Line is, with Accept, the chosen machine as Nix's `builders` wants it: one line of up to eight columns, with "-" for
	// what has its default.
	Line string `json:"line,omitempty"`
	// Name is what the user reads behind "building … on". Empty stands for what Nix calls the machine.
	Name string `json:"name,omitempty"`
	// Messages are shown before the build begins.
	Messages []Message `json:"messages,omitempty"`
}

// Message is text for the user.
type Message struct {
	// Level is Nix's: 0 error, 1 warning, 2 notice, 3 information; 4 to 7 are shown only to those who ask for more.
	Level int `json:"level"`
	// Text may have several lines.
	Text string `json:"text"`
}

// Limits of an answer, in bytes and items.
const (
	maxLine     = 4 << 10
	maxMessage  = 4 << 10
	maxMessages = 32
)

// check says what is wrong with an answer, whoever gave it.
func (a *Answer) check() error {
	if a == nil {
		return fmt.Errorf("hook: no answer")
	}
	switch a.Verdict {
	case Decline, DeclinePermanently, Postpone, Plain:
	case Accept:
		if !isMachine(a.Line) {
			return fmt.Errorf("hook: %q is not one machine", clip(a.Line))
		}
	default:
		return fmt.Errorf("hook: no verdict %q", clip(string(a.Verdict)))
	}
	if len(a.Name) > maxLine || strings.ContainsFunc(a.Name, isControl) {
		return fmt.Errorf("hook: %q is not a name", clip(a.Name))
	}
	if len(a.Messages) > maxMessages {
		return fmt.Errorf("hook: %d messages are more than %d", len(a.Messages), maxMessages)
	}
	return nil
}

// isMachine says whether Nix reads exactly one machine in the line. It would read a file after "@" at the beginning,
// a comment after "#" and a further machine after ";".
func isMachine(line string) bool {
	machine := strings.TrimSpace(line)
	return machine != "" && machine[0] != '@' && len(line) <= maxLine && !strings.ContainsAny(line, ";#") &&
		!strings.ContainsFunc(line, isControl)
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// clip keeps an error short.
func clip(s string) string { return s[:min(len(s), 80)] }

// Fixed is a Decider that always gives the same answer.
type Fixed Answer

// Decide gives the answer.
func (f Fixed) Decide(context.Context, Settings, *Try) (*Answer, error) {
	answer := Answer(f)
	return &answer, nil
}

// note is a message about a trouble of ours.
func note(level int, err error) Message {
	return Message{level, "build hook: " + strings.TrimPrefix(err.Error(), "hook: ")}
}

// appendMessage appends a message as Nix takes it from a hook.
func appendMessage(b []byte, m Message) []byte {
	text := m.Text
	if len(text) > maxMessage {
		text = text[:maxMessage] + "…"
	}
	line, err := json.Marshal(struct {
		Action string `json:"action"`
		Level  int    `json:"level"`
		Msg    string `json:"msg"`
	}{"msg", m.Level, text})
	if err != nil {
		panic("hook: internal error: a message that is not JSON: " + err.Error())
	}
	b = append(append(b, "@nix "...), line...)
	return append(b, '\n')
}

func appendMessages(b []byte, messages []Message) []byte {
	for _, m := range messages {
		b = appendMessage(b, m)
	}
	return b
}
