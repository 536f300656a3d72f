//go:build !linux

package plainhttp

import "errors"

// SendFile fails with [errors.ErrUnsupported].
func (w *response) SendFile(int, int64, int64) (int64, error) { return 0, errors.ErrUnsupported }
