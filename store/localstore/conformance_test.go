package localstore_test

import (
	"testing"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/localstore"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

func TestConformance(t *testing.T) {
	m := newMadeStore(t, "wal")
	var f storetest.Fixture
	for name, content := range trees {
		info := m.write(name, content)
		if len(f.Entries) > 0 {
			info.References = []narinfo.StorePath{f.Entries[0].Info.StorePath}
			info.Deriver = "/nix/store/zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz-x.drv"
		}
		m.change(func(w *writer) { w.register(info) })
		f.Entries = append(f.Entries, storetest.Entry{Info: info, NAR: m.dump(info.StorePath)})
	}
	for name, memory := range map[string]int64{"from files": 0, "from memory": 64 << 20} {
		t.Run(name, func(t *testing.T) {
			storetest.Test(t, func(t *testing.T) storetest.Fixture {
				o := m.options()
				o.MemoryCache = memory
				s, err := localstore.Open(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { s.Close() })
				f.Store = s
				return f
			})
		})
	}
}
