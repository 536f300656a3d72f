package background_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/background"
)

func TestStopEndsAndWaits(t *testing.T) {
	w := background.New()
	ended := false
	require.True(t, w.Start(func(ctx context.Context) {
		<-ctx.Done()
		ended = true
	}))
	w.Stop()
	require.True(t, ended)
	require.ErrorIs(t, w.Context().Err(), context.Canceled)
	require.False(t, w.Start(func(context.Context) { t.Error("started after Stop") }))
	w.Stop()
}
