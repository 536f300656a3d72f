//go:build linux || darwin

package host

import (
	"golang.org/x/sys/unix"

	"github.com/voidnxlab/nixtrap/offload"
)

func space(dir string) (s offload.Space) {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return s
	}
	s.Bytes = new(int64(st.Bavail) * int64(st.Bsize))
	if st.Files > 0 { // btrfs makes inodes as needed
		s.Inodes = new(int64(st.Ffree))
	}
	return s
}
