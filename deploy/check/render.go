package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// object is a Kubernetes object as plain JSON values.
type object map[string]any

func (o object) kind() string { return str(o["kind"]) }
func (o object) name() string { return str(dig(o, "metadata", "name")) }
func (o object) String() string {
	return o.kind() + "/" + o.name()
}

// render is what one way of installing gives.
type render struct {
	name    string
	objects []object
}

func (r render) get(kind, name string) object {
	for _, o := range r.objects {
		if o.kind() == kind && o.name() == name {
			return o
		}
	}
	return nil
}

// values are the Helm values that are rendered; those that must be refused have a reason that the refusal must name.
var values = []struct {
	name, yaml, refused string
}{
	{"default", ``, ""},
	{"monitored", `monitoring: {enabled: true}`, ""},
	{"reader-only", `
agent:
  cleanupFolders: []
  config: {cleanup: {mode: "off", roots: []}}
`, ""},
	{"everything", `
agent:
  image: {digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}
  cleanupFolders: [/var/log, /srv/logs]
  config: {cleanup: {mode: auto, roots: [{path: /var/log}, {path: /srv/logs}]}}
  seLinuxOptions: {type: spc_t}
  podAnnotations: {a: b}
  maxUnavailable: 1
collector:
  storageClassName: fast
  nodeSelector: {disk: ssd}
  tolerations: [{key: a, operator: Exists}]
  podAnnotations: {a: b}
  service: {type: LoadBalancer, annotations: {a: b}}
  config: {server: {names: [dogwatch.example.org]}}
imagePullSecrets: [{name: registry}]
monitoring: {enabled: true, labels: {release: kps}}
`, ""},
	{"every-kind", `
agent:
  cleanupFolders: [/var/log, /var/lib/systemd/coredump, /var/cache/apt, /tmp]
  config:
    cleanup:
      mode: auto
      images: {mode: plan}
      roots:
        - {path: /var/log}
        - {path: /var/log, cleaner: dead-container-logs}
        - {path: /var/log, cleaner: journal-archives}
        - {path: /var/log/app, cleaner: live-logs, mode: plan, patterns: [app.log]}
        - {path: /var/lib/systemd/coredump, cleaner: core-dumps}
        - {path: /var/cache/apt/archives, cleaner: package-caches}
        - {path: /tmp, cleaner: temp-files, mode: plan}
`, ""},
	{"agents-only", `
collector: {enabled: false}
agent: {config: {uplink: {collector: "dogwatch.example.org:7443"}}}
namespace: {create: false}
networkPolicy: {enabled: true}
`, ""},
	{"misspelt", `agent: {imgae: {}}`, "imgae"},
	{"unquoted-off", `agent: {config: {cleanup: {mode: off}}}`, "mode"},
	{"relative-folder", `agent: {cleanupFolders: [var/log]}`, "cleanupFolders"},
	{"root-without-its-folder", `agent: {config: {cleanup: {roots: [{path: /var/log}, {path: /var/logs}]}}}`, "/var/logs is not mounted"},
	{"collector-without-port", `agent: {config: {uplink: {collector: example.org}}}`, "collector"},
}

// renderAll renders everything; problems are values that were refused, or were not.
func renderAll(deploy string) (renders []render, problems []string, err error) {
	overlays, err := filepath.Glob(filepath.Join(deploy, "kustomize/overlays/*"))
	if err != nil || len(overlays) == 0 {
		return nil, nil, fmt.Errorf("no overlays in %s: %v", deploy, err)
	}
	folders := map[string]string{"kustomize/base": filepath.Join(deploy, "kustomize/base")}
	for _, o := range overlays {
		folders["kustomize/"+filepath.Base(o)] = o
	}
	// The components, as a user adds them.
	temp, err := os.MkdirTemp("", "dogwatch-check-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(temp)
	for name, component := range map[string]string{"monitored": "monitoring", "selinux": "selinux"} {
		at := filepath.Join(temp, name)
		base, err := relative(at, filepath.Join(deploy, "kustomize/base"))
		if err != nil {
			return nil, nil, err
		}
		with, err := relative(at, filepath.Join(deploy, "kustomize/components", component))
		if err != nil {
			return nil, nil, err
		}
		text := fmt.Sprintf("resources: [%s]\ncomponents: [%s]\n", base, with)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return nil, nil, err
		}
		if err := os.WriteFile(filepath.Join(at, "kustomization.yaml"), []byte(text), 0o644); err != nil {
			return nil, nil, err
		}
		folders["kustomize/"+name] = at
	}
	for name, folder := range folders {
		objects, err := kustomize(folder)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		renders = append(renders, render{name, objects})
	}
	for _, v := range values {
		objects, err := helm(filepath.Join(deploy, "helm/dogwatch"), v.yaml)
		switch {
		case v.refused == "" && err != nil:
			return nil, nil, fmt.Errorf("helm/%s: %w", v.name, err)
		case v.refused == "":
			renders = append(renders, render{"helm/" + v.name, objects})
		case err == nil:
			problems = append(problems, fmt.Sprintf("helm/%s: it was rendered and should have been refused", v.name))
		case !strings.Contains(err.Error(), v.refused):
			problems = append(problems, fmt.Sprintf("helm/%s: refused, but not for %s: %v", v.name, v.refused, err))
		}
	}
	sort.Slice(renders, func(i, j int) bool { return renders[i].name < renders[j].name })
	return renders, problems, nil
}

func relative(from, to string) (string, error) {
	to, err := filepath.Abs(to)
	if err != nil {
		return "", err
	}
	return filepath.Rel(from, to)
}

func kustomize(folder string) ([]object, error) {
	rendered, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		return nil, err
	}
	text, err := rendered.AsYaml()
	if err != nil {
		return nil, err
	}
	return split(string(text))
}

func helm(folder, yamlValues string) ([]object, error) {
	chart, err := loader.LoadDir(folder)
	if err != nil {
		return nil, err
	}
	own := map[string]any{}
	if err := yaml.Unmarshal([]byte(yamlValues), &own); err != nil {
		return nil, err
	}
	options := chartutil.ReleaseOptions{Name: "dogwatch", Namespace: "dogwatch", IsInstall: true, Revision: 1}
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.KubeVersion = chartutil.KubeVersion{Version: "v1.34.0", Major: "1", Minor: "34"}
	all, err := chartutil.ToRenderValues(chart, own, options, capabilities)
	if err != nil {
		return nil, err
	}
	files, err := engine.Engine{Strict: true}.Render(chart, all)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(files))
	for name := range files {
		if strings.HasSuffix(name, ".yaml") {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	var objects []object
	for _, name := range names {
		some, err := split(files[name])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		objects = append(objects, some...)
	}
	return objects, nil
}

func split(text string) ([]object, error) {
	var objects []object
	for _, one := range strings.Split("\n"+text, "\n---") {
		var o object
		// Strict: a key that stands twice is a mistake.
		if err := yaml.UnmarshalStrict([]byte(one), &o); err != nil {
			return nil, fmt.Errorf("%w in:\n%s", err, one)
		}
		if len(o) > 0 {
			objects = append(objects, o)
		}
	}
	return objects, nil
}

// write leaves the renders, each daemon's configuration and the rules in folder.
func write(folder string, renders []render) error {
	put := func(text []byte, parts ...string) error {
		path := filepath.Join(append([]string{folder}, parts...)...)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return os.WriteFile(path, text, 0o644)
	}
	for _, r := range renders {
		var all []byte
		for _, o := range r.objects {
			text, err := yaml.Marshal(o)
			if err != nil {
				return err
			}
			all = append(append(all, "---\n"...), text...)
			if o.kind() == "ConfigMap" {
				data, _ := o["data"].(map[string]any)
				for key, value := range data {
					if err := put([]byte(str(value)), r.name, key); err != nil {
						return err
					}
				}
			}
			if o.kind() == "PrometheusRule" {
				text, err := yaml.Marshal(o["spec"])
				if err != nil {
					return err
				}
				if err := put(text, r.name, "rules.yaml"); err != nil {
					return err
				}
			}
		}
		if err := put(all, r.name, "objects.yaml"); err != nil {
			return err
		}
	}
	return nil
}

func str(v any) string {
	s, _ := v.(string)
	return s
}

// dig follows keys into nested maps; nil where one is missing.
func dig(v any, keys ...string) any {
	for _, key := range keys {
		switch m := v.(type) {
		case object:
			v = m[key]
		case map[string]any:
			v = m[key]
		default:
			return nil
		}
	}
	return v
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}
