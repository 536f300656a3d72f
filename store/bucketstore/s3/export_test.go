package s3

import "time"

// SetPatience sets how long an answer is awaited, and the pause before a second attempt.
func (o *Options) SetPatience(stall, pause time.Duration) { o.stall, o.pause = stall, pause }
