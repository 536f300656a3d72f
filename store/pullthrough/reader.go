package pullthrough

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// reader reads a job's file from its own position. It is not safe for concurrent use.
type reader struct {
	ctx    context.Context // of the call that opened it
	store  *Store
	job    *job
	client bool // not the receiver

	pos    int64
	order  int64 // where a reader that never left the order would be
	direct io.ReadCloser
	ended  bool // it has yielded io.EOF
	closed bool
}

// Read waits for bytes at its position, and for the proof of all of them if they are read out of order.
func (r *reader) Read(p []byte) (int, error) {
	switch {
	case r.closed:
		return 0, os.ErrClosed
	case len(p) == 0:
		return 0, nil
	case r.direct != nil:
		return r.direct.Read(p)
	}
	j, inOrder := r.job, r.pos == r.order
	size := int64(0)
	err := j.await(r.ctx, func() bool {
		size = j.size
		return j.ended || inOrder && j.size > r.pos
	})
	if isDisk(err) && r.client {
		return r.readDirect(p)
	}
	if err != nil {
		return 0, err
	}
	if r.pos >= size {
		r.ended = true
		return 0, io.EOF
	}
	n, err := j.file.ReadAt(p[:min(int64(len(p)), size-r.pos)], r.pos)
	if inOrder {
		r.order += int64(n)
	}
	r.pos += int64(n)
	if n > 0 {
		return n, nil
	}
	return 0, fmt.Errorf("pullthrough: %w", err)
}

// readDirect goes on with the remote store itself, for only the disk has failed.
func (r *reader) readDirect(p []byte) (int, error) {
	f, err := r.store.remote.OpenArchive(r.ctx, r.job.info)
	if err != nil {
		return 0, err
	}
	r.store.path(r.store.opts.Trace.Direct, r.job.info)
	r.direct = f
	if r.pos != r.order {
		_, err = f.Seek(r.pos, io.SeekStart)
	} else {
		_, err = io.CopyN(io.Discard, f, r.pos)
	}
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		r.direct = errorReader{f, err}
	}
	return r.direct.Read(p)
}

type errorReader struct {
	io.Closer
	err error
}

func (e errorReader) Read([]byte) (int, error) { return 0, e.err }

// Seek waits for the end if whence is [io.SeekEnd].
func (r *reader) Seek(offset int64, whence int) (int64, error) {
	if r.closed {
		return 0, os.ErrClosed
	}
	if r.direct != nil {
		return 0, fmt.Errorf("pullthrough: seek: %w", errors.ErrUnsupported)
	}
	switch whence {
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		size := int64(0)
		err := r.job.await(r.ctx, func() bool {
			size = r.job.size
			return r.job.ended
		})
		if err != nil {
			return r.pos, err
		}
		offset += size
	}
	if offset < 0 {
		return r.pos, fmt.Errorf("pullthrough: seek to %d: %w", offset, os.ErrInvalid)
	}
	r.pos = offset
	return offset, nil
}

// Close lets go of the file. A second Close does nothing.
func (r *reader) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	r.store.leaveAs(r.job, r.client)
	if r.direct != nil {
		return r.direct.Close()
	}
	return nil
}
