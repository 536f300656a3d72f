package artefact

import "time"

// FrameSize is frameSize.
func FrameSize(size, offset int64) int64 { return frameSize(size, offset) }

// WithPause is o with another time for which a disk that could not be written to is left alone.
func (o *Options) WithPause(d time.Duration) *Options {
	o.pause = d
	return o
}
