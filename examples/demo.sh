#!/usr/bin/env bash
# A small Performer language model, from nothing, on this machine's own text: the source files of
# Python's standard library, split by file. Trains for four minutes, scores held-out files, and
# writes a sample. SUBQUAD_DEMO_SECONDS sets another budget, SUBQUAD_DEMO_OUT another folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

subquad=.venv/bin/subquad
# threads that wait for each other sleep instead of spinning: little lost alone, much won in company
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
seconds="${SUBQUAD_DEMO_SECONDS:-240}"
out="${SUBQUAD_DEMO_OUT:-runs/demo-$(date +%Y%m%d-%H%M%S)}"
minutes="$(awk "BEGIN { print $seconds / 60 }")"

echo "Training a Performer for $seconds seconds:"
"$subquad" train lm --arch performer --out "$out" \
  --arch.dim 192 --arch.num_layers 3 --arch.num_heads 4 --arch.ffn_dim 768 --arch.features 64 \
  --arch.dropout 0 --task.tokenizer bpe:1024 --task.context 256 \
  --train.minutes "$minutes" --train.batch 8 --train.lr 3e-3 --train.bf16 true --train.reports 4

echo
echo "On files that it has not seen:"
"$subquad" eval "$out" --part test --max-bytes "$((seconds >= 120 ? 262144 : 65536))" | tee "$out/eval.txt"
awk -v seconds="$seconds" '
  /^bits per byte/    { ours = $NF }
  /^gzip -9 bits/     { gzip = $NF }
  END {
    if (ours < gzip) printf "That is %.2f bits per byte below gzip -9 on the same bytes.\n", gzip - ours
    else printf "gzip -9 does better on the same bytes: %d seconds of training do not beat it.\n", seconds
  }' "$out/eval.txt"

echo
echo "A sample of 300 bytes that begins with \"def \":"
sample="$("$subquad" generate "$out" --prompt "def " --max-new-tokens 300 --seed 1)"
printf "def %s\n" "${sample:0:296}"
echo
echo "The run folder is $out; \`$subquad list $out\` shows what is in it."
