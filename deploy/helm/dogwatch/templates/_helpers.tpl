{{- define "dogwatch.labels" -}}
app.kubernetes.io/part-of: dogwatch
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
{{- define "dogwatch.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .chart.AppVersion }}
{{- end -}}
{{- end }}
{{- define "dogwatch.collectorAddress" -}}
{{- if .Values.agent.config.uplink.collector -}}
{{ .Values.agent.config.uplink.collector }}
{{- else -}}
dogwatch-collector.{{ .Release.Namespace }}.svc:7443
{{- end -}}
{{- end }}
{{- define "dogwatch.agentConfig" -}}
{{- $config := deepCopy .Values.agent.config -}}
{{- $_ := set $config.uplink "collector" (include "dogwatch.collectorAddress" .) -}}
{{- if ne $config.cleanup.mode "off" -}}
{{- range $root := $config.cleanup.roots -}}
{{- $mounted := false -}}
{{- range $folder := $.Values.agent.cleanupFolders -}}
{{- if or (eq $root.path $folder) (hasPrefix (printf "%s/" $folder) $root.path) -}}
{{- $mounted = true -}}
{{- end -}}
{{- end -}}
{{- if not $mounted -}}
{{- fail (printf "agent.config.cleanup.roots: %s is not mounted writable: add it to agent.cleanupFolders" $root.path) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{ toYaml $config }}
{{- end }}
{{- define "dogwatch.collectorConfig" -}}
{{- $config := deepCopy .Values.collector.config -}}
{{- $service := printf "dogwatch-collector.%s" .Release.Namespace -}}
{{- $names := list "dogwatch-collector" $service (printf "%s.svc" $service) (printf "%s.svc.cluster.local" $service) "localhost" "127.0.0.1" -}}
{{- $_ := set $config.server "names" (concat $names $config.server.names) -}}
{{- if $config.cluster.token_review -}}
{{- $_ := set $config.cluster "service_account" (printf "%s/dogwatch-agent" .Release.Namespace) -}}
{{- end -}}
{{ toYaml $config }}
{{- end }}
