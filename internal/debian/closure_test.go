package debian_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/debian"
)

const status = `Package: app
Version: 1.0~rc1
Depends: lib (>= 2), gone | other

Package: lib
Version: 2:3
Pre-Depends: app

Package: lone
Version: 1
`

func TestClosureExpressionNamesDependenciesFirst(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "var/lib/dpkg"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "var/lib/dpkg/status"), []byte(status), 0o644))
	text, err := debian.ClosureExpression(root, 2)
	require.NoError(t, err)
	require.Contains(t, text, `p_app = mk "app-1.0-rc1"`)
	require.Contains(t, text, `top = mk "closure-top" "" [ p_lib p_app ]`)
	require.NotContains(t, text, "lone")
	require.Less(t, strings.Index(text, "p_lib ="), strings.Index(text, "p_app ="))
}

func TestClosureExpressionWithoutDebian(t *testing.T) {
	_, err := debian.ClosureExpression(t.TempDir(), 2)
	require.ErrorIs(t, err, os.ErrNotExist)
}
