package httpcache

import (
	"crypto/sha256"
	"sync"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
)

// maxSigned is how many paths' signatures are kept in each of two generations, at some 200 bytes a path and key.
const maxSigned = 16 << 10

type fingerprint [sha256.Size]byte

// signer signs narinfos and remembers the signatures, which take several times as long as the rest of an answer.
// A signature depends on key and fingerprint alone, so what is remembered under a fingerprint never gets stale.
type signer struct {
	keys []*signing.SecretKey

	mu         sync.Mutex // guards the generations
	young, old map[fingerprint][]signing.Signature
}

// sign adds each key's signature, in place of others of the same name; see [narinfo.Info.Sign].
func (s *signer) sign(info *narinfo.Info) {
	if len(s.keys) == 0 {
		return
	}
	message := info.Fingerprint()
	sum := fingerprint(sha256.Sum256(message))
	sigs, ok := s.recall(sum)
	if !ok {
		for _, k := range s.keys {
			sigs = append(sigs, k.Sign(message))
		}
		s.remember(sum, sigs)
	}
	info.AddSignatures(sigs...)
}

func (s *signer) recall(sum fingerprint) ([]signing.Signature, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sigs, ok := s.young[sum]; ok {
		return sigs, true
	}
	sigs, ok := s.old[sum]
	if ok {
		s.put(sum, sigs)
	}
	return sigs, ok
}

func (s *signer) remember(sum fingerprint, sigs []signing.Signature) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(sum, sigs)
}

// put stores into the young generation, which becomes the old one when it is full. The caller holds mu.
func (s *signer) put(sum fingerprint, sigs []signing.Signature) {
	if s.young == nil || len(s.young) >= maxSigned {
		s.young, s.old = make(map[fingerprint][]signing.Signature), s.young
	}
	s.young[sum] = sigs
}
