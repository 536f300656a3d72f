package nixproto

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/voidnxlab/nixtrap/narinfo"
)

const frameSize = 64 << 10 // bytes of a frame that this package sends

// AddOptions say how paths are added. nil and the zero value are the same.
type AddOptions struct {
	Repair bool // replace valid paths too

	// DontCheckSigs takes paths without a signature that the daemon trusts.
	// A daemon that does not trust its client ignores it.
	DontCheckSigs bool
}

// Source yields paths with their archives, each behind those that it refers to.
type Source interface {
	// Len is the number of paths that Next yields.
	Len() uint64

	// Next returns the next path and its NAR, which is Info.NarSize bytes and good until the next call of Next;
	// io.EOF after the last.
	Next(ctx context.Context) (*PathInfo, io.Reader, error)
}

// Upload is a path to be added.
type Upload struct {
	Info *PathInfo
	Open func(ctx context.Context) (io.ReadCloser, error) // the NAR, when its turn comes
}

// Uploads returns the list as a [Source]. It closes each reader when the next one's turn comes, and the last one at the end.
func Uploads(list ...Upload) Source { return &uploads{list: list} }

type uploads struct {
	list []Upload
	next int
	open io.Closer
}

func (u *uploads) Len() uint64 { return uint64(len(u.list)) }

func (u *uploads) Next(ctx context.Context) (*PathInfo, io.Reader, error) {
	u.Close()
	if u.next == len(u.list) {
		return nil, nil, io.EOF
	}
	upload := u.list[u.next]
	u.next++
	nar, err := upload.Open(ctx)
	if err != nil {
		return nil, nil, err
	}
	u.open = nar
	return upload.Info, nar, nil
}

// Close closes the open reader, if there is one.
func (u *uploads) Close() error {
	if u.open != nil {
		u.open.Close()
		u.open = nil
	}
	return nil
}

// AddMultipleToStore adds all paths of a source in one operation.
// Ask [Client.ValidPaths] first, for paths that are valid are sent for nothing, and put Nix 2.8 out of step.
//
// The source is read on another goroutine while the daemon's messages are received here;
// none is left when the method returns, so it waits for a call of the source that is under way,
// whose context ends when there is no more use for it.
// If the daemon refuses a path, sending stops and its [RemoteError] is returned.
// An error of the source is returned as it is (wrapped), and so is a NAR that is not as long as its NarSize;
// the paths before it may have been added. If the source is an io.Closer, it is closed.
func (c *Client) AddMultipleToStore(ctx context.Context, paths Source, o *AddOptions) error {
	return c.upload(ctx, opAddMultipleToStore, func(e *encoder) { encodeAddOptions(e, o) },
		func(ctx context.Context, e *encoder) error { return sendPaths(ctx, e, paths) }, func(*decoder) {})
}

// AddToStoreNAR adds one path, whose references must be valid. It is like [Client.AddMultipleToStore] in all else.
func (c *Client) AddToStoreNAR(ctx context.Context, info *PathInfo, nar io.Reader, o *AddOptions) error {
	if err := checkUpload(info); err != nil {
		return err
	}
	return c.upload(ctx, opAddToStoreNAR, func(e *encoder) {
		e.string(string(info.Info.StorePath))
		encodePathInfo(e, info)
		encodeAddOptions(e, o)
	}, func(_ context.Context, e *encoder) error { return sendNAR(e, info, nar) }, func(*decoder) {})
}

// Content is something to be added under the path that follows from its content.
type Content struct {
	Name       string
	Method     string              // "fixed:r:sha256" for a NAR, "fixed:sha256" or "text:sha256" for a file's bytes …
	References []narinfo.StorePath // valid paths
	Repair     bool
}

// AddToStore adds content, whose form follows from its method, and returns the path that it got.
// It is like [Client.AddMultipleToStore] in all else.
func (c *Client) AddToStore(ctx context.Context, what *Content, data io.Reader) (*PathInfo, error) {
	var info *PathInfo
	err := c.upload(ctx, opAddToStore, func(e *encoder) { encodeContent(e, what) },
		func(_ context.Context, e *encoder) error {
			_, err := io.Copy(e.w, data)
			return err
		}, func(d *decoder) { info = decodePathInfo(d, parsePath(d, d.string())) })
	if err != nil {
		return nil, err
	}
	return info, nil
}

// AddSignatures adds signatures to a valid path.
func (c *Client) AddSignatures(ctx context.Context, path narinfo.StorePath, signatures []string) error {
	return c.call(ctx, opAddSignatures, func(e *encoder) {
		e.string(string(path))
		e.strings(signatures)
	}, func(d *decoder) { d.uint64() })
}

func encodeAddOptions(e *encoder, o *AddOptions) {
	if o == nil {
		o = new(AddOptions)
	}
	e.bool(o.Repair)
	e.bool(o.DontCheckSigs)
}

func decodeAddOptions(d *decoder) *AddOptions { return &AddOptions{d.bool(), d.bool()} }

func encodeContent(e *encoder, c *Content) {
	e.string(c.Name)
	e.string(c.Method)
	e.paths(c.References)
	e.bool(c.Repair)
}

func decodeContent(d *decoder) *Content {
	return &Content{d.string(), d.string(), decodePaths(d), d.bool()}
}

// upload sends an operation and then frames, while it receives messages.
func (c *Client) upload(
	ctx context.Context, o op, encode func(*encoder), send func(context.Context, *encoder) error, decode func(*decoder),
) error {
	return c.while(ctx, o.String(), func() error {
		c.enc.uint64(uint64(o))
		encode(c.enc)
		sendCtx, stop := context.WithCancel(ctx)
		defer stop()
		var sender sender
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			if sender.run(sendCtx, c.enc, send); sender.err != nil {
				_ = c.shut() // the daemon cannot be told, and waits for more
			}
		}()
		err := drain(c.dec, c.options.OnEvent)
		if err != nil {
			stop()
			_ = c.shut() // ends a write that the daemon does not read
		}
		<-sent
		if err = sender.blame(err); err != nil {
			return err
		}
		c.limitReply()
		decode(c.dec)
		return c.dec.err
	})
}

// sender sends frames while another goroutine receives.
type sender struct {
	err     error
	ofFrame bool // the transport failed, not what was to be sent
}

func (s *sender) run(ctx context.Context, e *encoder, send func(context.Context, *encoder) error) {
	frames := &frameWriter{e: e}
	framed := &encoder{bufio.NewWriterSize(frames, frameSize)}
	s.err = send(ctx, framed)
	if s.err == nil {
		s.err = framed.flush()
	}
	if s.err == nil {
		e.uint64(0)
		s.err = e.flush()
		frames.err = s.err
	}
	s.ofFrame = frames.err != nil
	if ctx.Err() != nil {
		s.ofFrame = true // there was no more use for it
	}
}

// blame returns why an upload failed, given how receiving did.
func (s *sender) blame(received error) error {
	if s.err == nil || received != nil && s.ofFrame {
		return received
	}
	return s.err
}

// frameWriter makes a frame of each Write: its length and its bytes, without padding.
type frameWriter struct {
	e   *encoder
	err error
}

func (w *frameWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil // an empty frame would be the end
	}
	w.e.uint64(uint64(len(p)))
	_, _ = w.e.w.Write(p)
	if w.err = w.e.flush(); w.err != nil {
		return 0, w.err
	}
	return len(p), nil
}

func sendPaths(ctx context.Context, e *encoder, paths Source) error {
	if closer, ok := paths.(io.Closer); ok {
		defer closer.Close()
	}
	e.uint64(paths.Len())
	for range paths.Len() {
		info, nar, err := paths.Next(ctx)
		if errors.Is(err, io.EOF) {
			return errors.New("source has fewer paths than it says")
		}
		if err == nil {
			err = checkUpload(info)
		}
		if err != nil {
			return err
		}
		e.string(string(info.Info.StorePath))
		encodePathInfo(e, info)
		if err := sendNAR(e, info, nar); err != nil {
			return err
		}
	}
	return nil
}

func checkUpload(info *PathInfo) error {
	if info.Info.NarHash.Type() != narinfo.SHA256 || info.Info.NarSize < 1 {
		return fmt.Errorf("nixproto: %s has no SHA-256 or size", info.Info.StorePath)
	}
	return nil
}

// sendNAR keeps in step with the other side, which trusts the size or the archive's own framing.
func sendNAR(e *encoder, info *PathInfo, nar io.Reader) error {
	n, err := io.Copy(e.w, io.LimitReader(nar, info.Info.NarSize))
	if err == nil && n < info.Info.NarSize {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("NAR of %s: %w", info.Info.StorePath, err)
	}
	var more [1]byte
	if n, _ := io.ReadFull(nar, more[:]); n > 0 {
		return fmt.Errorf("NAR of %s is longer than %d bytes", info.Info.StorePath, info.Info.NarSize)
	}
	return nil
}
