package buffer_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/buffer"
)

func TestLargeBuffersAreFew(t *testing.T) {
	var p buffer.Pool
	for range 2 { // what was given back is lent again
		sizes := make(map[int]int)
		var lent []*[]byte
		for range 40 {
			b := p.Get()
			sizes[len(*b)]++
			lent = append(lent, b)
		}
		require.Equal(t, map[int]int{buffer.Large: 32, buffer.Small: 8}, sizes)
		require.Nil(t, p.GetLarge())
		for _, b := range lent {
			p.Put(b)
		}
	}
}
