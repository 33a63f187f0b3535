// All words of the page in English and Japanese, and the formats of numbers and times.

import { keep, recall } from "./memory.js";

const KEY = "leaseway-language";

const TEXTS = {
  en: {
    skip: "To the endpoints", connecting: "Connecting…", live: "Live", reconnecting: "Connection lost, reconnecting…",
    otherLanguage: "日本語", light: "Light", dark: "Dark", auto: "Auto", theme: "Theme",
    onlineEndpoints: "Endpoints online", totalRequests: "Requests", activeRequests: "Active", queuedRequests: "Queued",
    averageWait: "Average wait", successRate: "Success rate", averageResponse: "Average response",
    outputTokens: "Output tokens", tokensPerSecond: "Average TPS", rowsDropped: "history rows dropped while the database could not be written",
    timeline: "Requests of the last 60 minutes", succeeded: "succeeded", failed: "failed",
    endpoints: "Endpoints", add: "Add endpoint", status: "Status", name: "Name", kind: "Kind", models: "Models",
    inFlight: "In flight / slots", requests: "Requests", success: "Success", latency: "Latency", tps: "TPS",
    pending: "pending", online: "online", loading: "loading", draining: "draining", offline: "offline", error: "error",
    skippedUntil: "skipped until", onTrial: "tried with one request",
    noEndpoints: "No endpoints yet. Add the first one with the button above, or over the API:",
    waitingRoom: "Waiting room", waitsNow: "Waiting now", running: "Running", grants: "Last grants",
    model: "Model", waiting: "Waiting", estimate: "Estimated wait", endpoint: "Endpoint", api: "API", elapsed: "Elapsed",
    time: "Time", reason: "Reason", waited: "Waited", nobodyWaits: "Nobody waits.", nothingRuns: "Nothing runs.",
    noGrants: "No request has been served yet.",
    close: "Close", drain: "Drain", resume: "Resume", sync: "Probe now", remove: "Remove", reallyRemove: "Really remove?",
    address: "Address", source: "Source", lastSeen: "Last seen", lastError: "Last error", file: "config file",
    averageTime: "Average time", tokens: "Output tokens", firstToken: "First token", decodeTps: "Decode TPS", byModel: "TPS by model", byDay: "Requests by day",
    nothingMeasured: "Nothing measured yet.", addTitle: "Add an endpoint", slots: "Slots",
    slotsHint: "requests at a time; empty: as the engine tells, else 1", noNumber: "Write a whole number.", key: "API key", keyHint: "sent in place of the client's; never shown again",
    addressHint: "for example http://10.0.0.11:8000", cancel: "Cancel", noAnswer: "Leaseway gives no answer.",
    never: "never",
    only_candidate: "the only one free", not_failing: "the next best has just failed", not_busy: "the next best is busy",
    reported: "the next best reports no load", lowest_score: "lowest load", highest_capability: "highest capability",
    least_active: "least active", round_robin: "in turn",
  },
  ja: {
    skip: "エンドポイントへ", connecting: "接続中…", live: "ライブ", reconnecting: "接続が切れました。再接続中…",
    otherLanguage: "English", light: "ライト", dark: "ダーク", auto: "自動", theme: "テーマ",
    onlineEndpoints: "オンライン", totalRequests: "リクエスト", activeRequests: "処理中", queuedRequests: "待機中",
    averageWait: "平均待ち時間", successRate: "成功率", averageResponse: "平均応答時間",
    outputTokens: "出力トークン", tokensPerSecond: "平均TPS", rowsDropped: "件の履歴が、データベースに書き込めず破棄されました",
    timeline: "直近60分のリクエスト", succeeded: "成功", failed: "失敗",
    endpoints: "エンドポイント", add: "エンドポイントを追加", status: "状態", name: "名前", kind: "種類", models: "モデル",
    inFlight: "処理中 / スロット", requests: "リクエスト", success: "成功率", latency: "レイテンシ", tps: "TPS",
    pending: "確認待ち", online: "オンライン", loading: "読み込み中", draining: "停止準備中", offline: "オフライン", error: "エラー",
    skippedUntil: "除外中、再試行", onTrial: "試行中",
    noEndpoints: "エンドポイントがまだありません。上のボタンまたは API で追加してください:",
    waitingRoom: "待合室", waitsNow: "待機中のリクエスト", running: "処理中のリクエスト", grants: "最近の割り当て",
    model: "モデル", waiting: "待機数", estimate: "予想待ち時間", endpoint: "エンドポイント", api: "API", elapsed: "経過",
    time: "時刻", reason: "理由", waited: "待ち時間", nobodyWaits: "待機中のリクエストはありません。", nothingRuns: "処理中のリクエストはありません。",
    noGrants: "まだリクエストは処理されていません。",
    close: "閉じる", drain: "新規停止", resume: "再開", sync: "今すぐ確認", remove: "削除", reallyRemove: "本当に削除しますか?",
    address: "アドレス", source: "登録元", lastSeen: "最終応答", lastError: "最後のエラー", file: "設定ファイル",
    averageTime: "平均時間", tokens: "出力トークン", firstToken: "最初のトークン", decodeTps: "デコードTPS", byModel: "モデル別TPS", byDay: "日別リクエスト",
    nothingMeasured: "まだ計測されていません。", addTitle: "エンドポイントを追加", slots: "スロット数",
    slotsHint: "同時に処理するリクエスト数。空欄: エンジンの申告値、なければ 1", noNumber: "整数を入力してください。", key: "API キー", keyHint: "クライアントのキーの代わりに送信。再表示されません",
    addressHint: "例: http://10.0.0.11:8000", cancel: "キャンセル", noAnswer: "Leaseway が応答しません。",
    never: "なし",
    only_candidate: "空きはここのみ", not_failing: "次点は直前に失敗", not_busy: "次点は高負荷",
    reported: "次点は負荷を報告せず", lowest_score: "最小の負荷", highest_capability: "最高の性能",
    least_active: "最も空きが多い", round_robin: "順番",
  },
};

const NONE = "—";
const HOURS = { hourCycle: "h23" };

let language = remembered();

function remembered() {
  const kept = recall(KEY);
  if (kept in TEXTS) return kept;
  return navigator.language.startsWith("ja") ? "ja" : "en";
}

export function currentLanguage() {
  return language;
}

export function switchLanguage() {
  language = language === "en" ? "ja" : "en";
  keep(KEY, language);
}

export function text(key) {
  return TEXTS[language][key] ?? key;
}

export function whole(value) {
  return value.toLocaleString(language);
}

// Formats a count; a count of `longest` or more is rounded.
export function short(value, longest = 1e7) {
  return value < longest ? whole(value) : value.toLocaleString(language, { notation: "compact", maximumFractionDigits: 1 });
}

export function milliseconds(value) {
  if (value === null || value === undefined) return NONE;
  if (value === 0) return "0 ms";
  if (value < 1000) return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
  return `${(value / 1000).toFixed(value < 10000 ? 2 : 1)} s`;
}

export function speed(value) {
  return value === null || value === undefined ? NONE : `${value < 1000 ? value.toFixed(1) : whole(Math.round(value))} tok/s`;
}

// Formats the share of successes among answered requests, rounded down, so that it is 100 % only without a failure.
export function percent(successful, failed) {
  const answered = successful + failed;
  if (answered === 0) return NONE;
  const tenths = Math.floor((successful / answered) * 1000);
  return `${tenths % 1000 === 0 ? tenths / 10 : (tenths / 10).toFixed(1)} %`;
}

export function clock(time, precise = {}) {
  return new Date(time).toLocaleTimeString(language, { hour: "2-digit", minute: "2-digit", ...HOURS, ...precise });
}

export function moment(time) {
  return time ? new Date(time).toLocaleString(language, HOURS) : text("never");
}

export { NONE };
