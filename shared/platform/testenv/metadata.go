package testenv

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// MetadataServer stands in for the server that tells an instance of Google Cloud the tokens of its service account, and speaks as
// it does: of tokens for logging in to Cloud SQL, and of nothing else.
type MetadataServer struct {
	server *httptest.Server

	mu    sync.Mutex
	token string
	life  time.Duration
	asked int
}

// Metadata starts one, which is closed when the test is over.
func Metadata(t testing.TB) *MetadataServer {
	t.Helper()
	m := &MetadataServer{}
	m.server = httptest.NewServer(http.HandlerFunc(m.serve))
	t.Cleanup(m.server.Close)
	return m
}

// Addr is what Google's libraries look for in GCE_METADATA_HOST.
func (m *MetadataServer) Addr() string { return m.server.Listener.Addr().String() }

// Hand makes the token the one that is handed out, as good for so long.
func (m *MetadataServer) Hand(token string, life time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.token, m.life = token, life
}

// Asked is how many tokens were handed out.
func (m *MetadataServer) Asked() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked
}

func (m *MetadataServer) serve(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w.Header().Set("Metadata-Flavor", "Google")
	switch {
	case r.Header.Get("Metadata-Flavor") != "Google":
		http.Error(w, "Missing required header: Metadata-Flavor", http.StatusForbidden)
	case r.URL.Path != "/computeMetadata/v1/instance/service-accounts/default/token" ||
		r.URL.Query().Get("scopes") != "https://www.googleapis.com/auth/sqlservice.login":
		http.NotFound(w, r)
	default:
		m.asked++
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"access_token":%q,"expires_in":%d,"token_type":"Bearer"}`, m.token, int(m.life.Seconds()))
	}
}
