package pullthrough

import (
	"syscall"
)

// FullAfter has each temporary file fail once n bytes have been written.
func (o *Options) FullAfter(n int64) {
	o.create = func(dir string) (spoolFile, error) {
		f, err := createTemp(dir)
		return fullFile{f, n}, err
	}
}

type fullFile struct {
	spoolFile
	room int64
}

func (f fullFile) WriteAt(p []byte, at int64) (int, error) {
	if at+int64(len(p)) > f.room {
		return 0, syscall.ENOSPC
	}
	return f.spoolFile.WriteAt(p, at)
}
