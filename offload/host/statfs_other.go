//go:build !linux && !darwin

package host

import "github.com/voidnxlab/nixtrap/offload"

func space(string) offload.Space { return offload.Space{} }
