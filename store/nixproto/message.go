package nixproto

// Messages that a daemon sends before the result of an operation.
const (
	msgNext          = 0x6f6c6d67 // a log line
	msgRead          = 0x64617461 // the daemon wants data
	msgWrite         = 0x64617416 // the daemon has data
	msgLast          = 0x616c7473 // the result follows
	msgError         = 0x63787470 // there will be no result
	msgStartActivity = 0x53545254
	msgStopActivity  = 0x53544f50
	msgResult        = 0x52534c54 // of an activity: progress, a line of a build's log
)

const maxMessage = 4 << 20 // bytes of one message

// EventKind tells the kinds of [Event] apart.
type EventKind uint8

const (
	EventLog    EventKind = iota + 1 // Text is a log line
	EventStart                       // an activity begins: all fields are set
	EventStop                        // Activity ends
	EventResult                      // Activity has news: Type and Fields
)

// Event is one message of a daemon about its work. Texts are data from outside.
type Event struct {
	Kind     EventKind
	Activity uint64 // the activity's number; unique within a connection
	Parent   uint64 // the activity that it is part of, 0 for none
	Level    uint64 // Nix's verbosity level, 0 (error) to 7 (vomit)
	Type     uint64 // Nix's number for the kind of activity or result
	Text     string
	Fields   []Field
}

// Nix's numbers for those kinds of activities and results that a build has.
const (
	ActivityBuild      = 105 // fields: the derivation's path, the machine's name, 1, 1
	ResultBuildLogLine = 101 // fields: the line, without its end
	ResultSetPhase     = 104 // fields: the phase's name
)

// LogLine returns the line of a build's log that an event is, if it is one.
// With [Settings].VerboseBuild, a daemon sends lines as EventLog instead.
func (e Event) LogLine() (line string, ok bool) { return e.result(ResultBuildLogLine) }

// Phase returns the name of the phase that a build enters by an event, if it does.
func (e Event) Phase() (name string, ok bool) { return e.result(ResultSetPhase) }

func (e Event) result(kind uint64) (text string, ok bool) {
	if e.Kind != EventResult || e.Type != kind || len(e.Fields) != 1 || !e.Fields[0].IsText {
		return "", false
	}
	return e.Fields[0].Text, true
}

// Field is one argument of an activity or result, a number or a text.
type Field struct {
	Text   string
	Number uint64
	IsText bool
}

// drain reads messages until the result follows (nil) or there will be none. onEvent may be nil.
func drain(d *decoder, onEvent func(Event)) error {
	for {
		d.limit(maxMessage)
		kind := d.uint64()
		switch {
		case d.err != nil:
		case kind == msgLast:
			return nil
		case kind == msgError:
			return decodeError(d)
		case kind == msgRead:
			d.fail("daemon asks for data that the request does not carry")
		case kind == msgWrite:
			d.fail("daemon sends data that the request does not expect")
		default:
			ev := decodeEvent(d, kind)
			if d.err == nil && onEvent != nil {
				onEvent(ev)
			}
		}
		if d.err != nil {
			return d.err
		}
	}
}

func decodeEvent(d *decoder, kind uint64) Event {
	switch kind {
	case msgNext:
		return Event{Kind: EventLog, Text: d.string()}
	case msgStartActivity:
		ev := Event{Kind: EventStart, Activity: d.uint64(), Level: d.uint64(), Type: d.uint64(), Text: d.string()}
		ev.Fields = decodeFields(d)
		ev.Parent = d.uint64()
		return ev
	case msgStopActivity:
		return Event{Kind: EventStop, Activity: d.uint64()}
	case msgResult:
		ev := Event{Kind: EventResult, Activity: d.uint64(), Type: d.uint64()}
		ev.Fields = decodeFields(d)
		return ev
	}
	d.fail("message %#x is not known", kind)
	return Event{}
}

func decodeFields(d *decoder) []Field {
	return listOf(d, func() Field {
		switch kind := d.uint64(); kind {
		case 0:
			return Field{Number: d.uint64()}
		case 1:
			return Field{Text: d.string(), IsText: true}
		default:
			d.fail("field type %d is not known", kind)
			return Field{}
		}
	})
}

// decodeError reads what follows msgError. It returns a *RemoteError, or what is wrong with the message.
func decodeError(d *decoder) error {
	e := &RemoteError{Type: d.string(), Level: d.uint64()}
	d.string() // a name, no longer used
	e.Message = d.string()
	decodeNoPosition(d)
	e.Trace = listOf(d, func() string {
		decodeNoPosition(d)
		return d.string()
	})
	if d.err != nil {
		return d.err
	}
	return e
}

// decodeNoPosition reads whether a source position follows, which no daemon sends and no form exists for.
func decodeNoPosition(d *decoder) {
	if n := d.uint64(); n != 0 {
		d.fail("error with a position")
	}
}

func encodeEvent(e *encoder, ev Event) {
	switch ev.Kind {
	case EventLog:
		e.uint64(msgNext)
		e.string(ev.Text)
	case EventStart:
		e.uint64(msgStartActivity)
		e.uint64(ev.Activity)
		e.uint64(ev.Level)
		e.uint64(ev.Type)
		e.string(ev.Text)
		encodeFields(e, ev.Fields)
		e.uint64(ev.Parent)
	case EventStop:
		e.uint64(msgStopActivity)
		e.uint64(ev.Activity)
	case EventResult:
		e.uint64(msgResult)
		e.uint64(ev.Activity)
		e.uint64(ev.Type)
		encodeFields(e, ev.Fields)
	}
}

func encodeFields(e *encoder, fields []Field) {
	listTo(e, fields, func(f Field) {
		if f.IsText {
			e.uint64(1)
			e.string(f.Text)
			return
		}
		e.uint64(0)
		e.uint64(f.Number)
	})
}

// encodeError writes msgError and what follows it.
func encodeError(e *encoder, r *RemoteError) {
	e.uint64(msgError)
	e.string("Error")
	e.uint64(r.Level)
	e.string("Error")
	e.string(r.Message)
	e.uint64(0)
	listTo(e, r.Trace, func(hint string) {
		e.uint64(0)
		e.string(hint)
	})
}
