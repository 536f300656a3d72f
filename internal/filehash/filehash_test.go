package filehash_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/filehash"
)

func TestSum(t *testing.T) {
	text := strings.Repeat("0123456789", 60_000)
	want := sha256.Sum256([]byte(text))
	got, err := filehash.Sum(t.Context(), iotest.HalfReader(strings.NewReader(text)))
	require.NoError(t, err)
	require.Equal(t, want[:], got.Digest())

	broken := errors.New("broken")
	_, err = filehash.Sum(t.Context(), iotest.ErrReader(broken))
	require.ErrorIs(t, err, broken)

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = filehash.Sum(ended, strings.NewReader(text))
	require.ErrorIs(t, err, context.Canceled)
}
