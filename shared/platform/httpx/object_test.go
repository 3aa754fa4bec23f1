package httpx_test

import (
	"encoding/json"
	"testing"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/coditect/usher/shared/platform/httpx"
)

func TestAnObjectIsKeptAsItWasSent(t *testing.T) {
	t.Parallel()
	const sent = `{"n":9007199254740993, "e":1e-999,"s":"\u00e9<"}`
	var got struct{ Object, None httpx.Object }
	if err := jsonv2.Unmarshal([]byte(`{"Object":`+sent+`}`), &got); err != nil || string(got.Object) != sent {
		t.Errorf("kept %s: %v", got.Object, err)
	}
	text, err := jsonv2.Marshal(got)
	if want := `{"Object":{"n":9007199254740993,"e":1e-999,"s":"é<"},"None":{}}`; err != nil || string(text) != want {
		t.Errorf("written %s, want %s: %v", text, want, err)
	}
	if text, err := json.Marshal(got.None); err != nil || string(text) != "{}" {
		t.Errorf("none is written %s: %v", text, err)
	}
	if err := json.Unmarshal([]byte(`[1]`), &got.Object); err == nil {
		t.Error("an array was kept")
	}
}
