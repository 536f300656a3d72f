package plainhttp

import (
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"

	"golang.org/x/sys/unix"
)

// SendFile has the kernel write n bytes of the file with descriptor fd from offset on, and returns how many it wrote.
// Where it can't it fails with [errors.ErrUnsupported], and where the file ends before with io.ErrUnexpectedEOF.
func (w *response) SendFile(fd int, offset, n int64) (written int64, err error) {
	tcp, ok := w.c.rwc.(*net.TCPConn)
	if !ok || w.status == 0 || w.length < 0 || w.head || w.noBody {
		return 0, errors.ErrUnsupported
	}
	if n > w.length-w.written {
		return 0, http.ErrContentLength
	}
	if err := w.send(); err != nil {
		return 0, err
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, err
	}
	short, unsupported := false, false
	w.patiently(func() (int64, error) {
		before := written
		var sendErr error
		err := raw.Write(func(socket uintptr) bool {
			for written < n {
				m, err := unix.Sendfile(int(socket), fd, &offset, int(min(n-written, maxSend)))
				switch {
				case errors.Is(err, syscall.EAGAIN):
					return false
				case errors.Is(err, syscall.EINTR):
					continue
				case errors.Is(err, syscall.EINVAL) && written == 0:
					unsupported = true
					return true
				case err != nil:
					sendErr = err
					return true
				case m == 0:
					short = true
					return true
				}
				written += int64(m)
			}
			return true
		})
		return written - before, errors.Join(err, sendErr)
	})
	w.written += written
	if unsupported {
		return 0, errors.ErrUnsupported
	}
	if short && w.err == nil {
		return written, io.ErrUnexpectedEOF
	}
	return written, w.err
}

// maxSend is how much is asked of the kernel at once, which a 32-bit int can hold.
const maxSend = 1 << 30
